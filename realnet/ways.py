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
from realnet.message import Message


class Take(Protocol):
    """What an operation is handed to at the end of its way, with the frames of its record."""

    def __call__(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None: ...


CONTROL, DATA, BULK = 0, 1, 2
NUM_LANES = 3
BULK_BYTES = 1 << 18


def is_bulk(frames: Sequence[Frame]) -> bool:
    """Tell whether large arrays belong on the lane where nothing small waits behind them."""
    return sum(map(len, frames)) > BULK_BYTES


class FarWay(Protocol):
    """A way over a link: it writes what is most common without making an operation first."""

    def call(self, id: int, budget_s: float, trace: int, record: Message) -> bool: ...
    def reply(self, id: int, record: Message) -> bool: ...


class Way(Protocol):
    """Where operations go. To an actor that is gone they are dropped.

    `far` ways write calls and replies of records without arrays themselves.
    """

    local: bool

    @property
    def far(self) -> FarWay | None: ...

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """Send one operation; order is kept. Raises TooLarge for what no link takes."""


class LocalWay:
    """To an actor in this process: records stay what they are.

    What concerns an ask is handed over at once (`asks`): it ends in a mailbox or a future. The rest
    could come back while its sender still works, so it waits for the next turn of the loop.
    """

    local = True
    far = None

    def __init__(self, find: Callable[[], Take | None], asks: bool):
        self._find = find
        self._asks = asks

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """The first time; then this is the other end itself."""
        take = self._find()
        if take is None:
            return
        end = take if self._asks else _next_turn(take)
        self.send = end  # type: ignore[method-assign]
        end(op, frames)


def _next_turn(take: Take) -> Take:
    loop = asyncio.get_running_loop()

    def later(op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        loop.call_soon(take, op, frames)

    return later


class CopyWay:
    """To an actor in this process, through the codec as if it were far away."""

    local = False
    far = None

    def __init__(self, way: LocalWay, codec: Codec):
        self._way = way
        self._codec = codec

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """Send a copy."""
        self._way.send(self._codec.copy_op(op), [bytes(f) for f in frames])
