"""One open call at the end that asked, and the member of a pool that it is with.

Knows nothing of sockets; who ends it is in `calls.py`, and a stream's caller in `callstream.py`.
Plain classes, made once an ask: what is nearly always the same stands in the class, so that only
the rest is written; compiled (`compiled.py`) their fields are read without a look-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from realnet.codec import Frame
from realnet.deadlines import Bucket
from realnet.errors import AskError
from realnet.message import Message
from realnet.ways import Way, is_bulk


class Member:
    """One member of the pool that a port asks: the ways to it, and how much it was asked."""

    __slots__ = ("bulk", "far", "full", "gone", "load", "local", "name", "way")

    def __init__(self, full: str, way: Way, bulk: Way):
        self.full = full
        self.name = full.partition("~")[0]
        self.way = way
        self.bulk = bulk
        self.local = way.local
        self.far = way.far
        self.load = 0
        self.gone = False

    def way_for(self, frames: Sequence[Frame]) -> Way:
        """Large arrays go where nothing small waits behind them."""
        return self.bulk if is_bulk(frames) else self.way


class Asking(Protocol):
    """The port that a call was made through. `only` is its one member, if it has just one."""

    name: str
    only: Member | None

    def choose(self, record: Message, to: str | None) -> Member | None:
        """Return who is to be asked; None if there is nobody. Raises PeerDied for a dead `to`."""

    async def somebody(self) -> None: ...


class AskedHere:
    """A call that does not leave its process: it takes the place of a `wire.Call`.

    `deadline_s` is of the clock that both ends have.
    """

    id: int
    record: Message
    deadline_s: float
    trace: int

    def answer(self, record: Message) -> None:
        """Give it its reply."""
        raise NotImplementedError


class Keeper(Protocol):
    """Whoever keeps the open calls of an actor."""

    def end(self, call: OpenCall) -> None:
        """Nothing more comes for this call."""

    def expired(self, call: OpenCall) -> None:
        """The time of a call is over."""


class OpenCall(AskedHere):
    """One open call. A stream has `items`, which collects what comes."""

    items: list[Message] | None = None
    ended: bool = False
    error: AskError | None = None
    bucket: Bucket | None = None

    def __init__(
        self,
        id: int,
        record: Message,
        deadline_s: float,
        trace: int,
        calls: Keeper,
        port: Asking,
        member: Member,
        since_s: float,
        waiter: asyncio.Future[Any] | None,
    ):
        self.id = id
        self.record = record
        self.deadline_s = deadline_s
        self.trace = trace
        self.calls = calls
        self.port = port
        self.member = member
        self.since_s = since_s
        self.waiter = waiter

    def answer(self, record: Message) -> None:
        """The reply, from the same process."""
        if self.ended:
            self.calls.end(self)  # given up: now its member has done with it
            return
        self.ended = True
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(record)

    def fail(self, error: AskError) -> None:
        if not self.ended:
            self.ended, self.error = True, error
            waiter = self.waiter
            if waiter is not None and not waiter.done():
                if self.items is None:
                    waiter.set_exception(error)
                else:
                    waiter.set_result(None)

    def expire(self) -> None:
        """The time budget has run out."""
        self.calls.expired(self)
