"""One call, or one word, at the end that answers; and the port that it came from.

Knows nothing of links. `serving.py` works on these. Plain classes, as in `opencall.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Protocol

from realnet.codec import Frame
from realnet.opencall import AskedHere
from realnet.ways import BULK, CONTROL, Way


class Finder(Protocol):
    """Who finds ways: the actor's cell."""

    def way(self, to: str, port: str, sender_port: str, lane: int) -> Way: ...


class Caller:
    """One port of one actor that calls; ways back are found when the first answer goes."""

    __slots__ = ("_bulk", "_cell", "calls", "port", "sender", "way")

    def __init__(self, cell: Finder, sender: str, port: str):
        self._cell = cell
        self.sender = sender
        self.port = port
        self.calls: dict[int, ServedCall] = {}
        self.way: Way | None = None
        self._bulk: Way | None = None

    def find_way(self) -> Way:
        """Return the way back."""
        way = self.way
        if way is None:
            way = self.way = self._cell.way(self.sender, self.port, "", CONTROL)
        return way

    @property
    def bulk(self) -> Way:
        if self._bulk is None:
            self._bulk = self._cell.way(self.sender, self.port, "", BULK)
        return self._bulk


class ServedCall:
    """One call, or one word that wants no reply (id 0): waiting, then in a worker's hands."""

    more: asyncio.Event | None = None
    worker: asyncio.Task[None] | None = None
    cancelled: bool = False
    interrupted: bool = False  # cancelled in a worker's hands
    done: bool = False

    def __init__(
        self,
        caller: Caller,
        sender: str,
        body: Any,
        frames: Sequence[Frame],
        num_bytes: int,
        id: int = 0,
        credit: int = 0,
        trace: int = 0,
        span: int = 0,
        expires_s: float = math.inf,
        asked: AskedHere | None = None,
    ):
        self.caller = caller
        self.sender = sender
        self.body = body
        self.frames = frames
        self.num_bytes = num_bytes
        self.id = id
        self.credit = credit
        self.trace = trace
        self.span = span
        self.expires_s = expires_s
        self.asked = asked
