"""A way: from a port of one actor to a port of another, found once and used for every operation.

A local way hands an operation to the other actor in the same process, as it is; `CopyWay` does so
through bytes and back, to force the codec. A way over a link is `links.RemoteWay`.

Knows nothing of sockets or of what operations mean. Made by `node.py`; the live ports, `calls.py`
and `serving.py` send on ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from realnet import wire
from realnet.codec import Codec, Frame

Take = Callable[[wire.AnyOp, Sequence[Frame]], None]
CONTROL, DATA, BULK = 0, 1, 2
NUM_LANES = 3
_AT_ONCE = (wire.Call, wire.Reply, wire.Fail, wire.Cancel, wire.Credit, wire.Tell)


class Way(Protocol):
    """Where operations go. To an actor that is gone they are dropped."""

    local: bool

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """Send one operation; order is kept. Raises TooLarge for what no link takes."""


class LocalWay:
    """To an actor in this process: records stay what they are.

    What concerns an ask is handed over at once: it ends in a mailbox or a future. The rest could
    come back while its sender still works, so it waits for the next turn of the loop.
    """

    __slots__ = ("_find", "_take", "local")

    def __init__(self, find: Callable[[], Take | None]):
        self.local = True
        self._find = find
        self._take: Take | None = None

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        take = self._take
        if take is None:
            take = self._take = self._find()
            if take is None:
                return
        if isinstance(op, _AT_ONCE):
            take(op, frames)
        else:
            asyncio.get_running_loop().call_soon(take, op, frames)


class CopyWay(LocalWay):
    """To an actor in this process, through the codec as if it were far away."""

    __slots__ = ("_codec",)

    def __init__(self, find: Callable[[], Take | None], codec: Codec):
        super().__init__(find)
        self.local = False
        self._codec = codec

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        super().send(self._codec.copy_op(op), [bytes(f) for f in frames])
