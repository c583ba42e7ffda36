"""The ends of state wires: the latest value of something small; late joiners get it at once.

Knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

from realnet import wire
from realnet.codec import Frame
from realnet.live.base import LivePort, Switch
from realnet.message import Message
from realnet.parcel import Parcel, record_of

M = TypeVar("M", bound=Message)


class LiveStateOut(LivePort, Generic[M]):
    """Shows the latest value to everyone who follows it."""

    def __init__(self, switch: Switch, name: str):
        super().__init__(switch, name)
        self._number = 0
        self._parcel: Parcel | None = None

    def set(self, value: M) -> None:
        """Show a new value."""
        self._fit(value)
        self._number += 1
        self._parcel = Parcel(value)
        for peer in list(self.peers):
            self._show(peer)

    def peer_up(self, peer: str, port: str) -> None:
        super().peer_up(peer, port)
        self._show(peer)

    def _show(self, peer: str) -> None:
        if self._parcel is not None:
            body, frames = self._parcel.body(self._switch.codec, self._switch.is_local(peer))
            self._post(peer, wire.Value(self._number, body), frames)


class LiveStateIn(LivePort, Generic[M]):
    """Follows the latest value of its peer. The last value stays when the peer dies."""

    def __init__(self, switch: Switch, name: str):
        super().__init__(switch, name)
        self.value: M | None = None
        self._numbers: dict[str, int] = {}
        self._changes = 0
        self._waiters: list[asyncio.Future[None]] = []
        # What each task saw last: a value that came while it was busy is not missed.
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    async def get(self, *, background: bool = False) -> M:
        """Return the value, waiting for the first one; `background` as in `changed`."""
        while self.value is None:
            await self._next(f"the first {self.name}", background)
        self._seen[asyncio.current_task()] = self._changes
        return self.value

    async def changed(self, *, background: bool = False) -> M:
        """Return the next value that this task has not seen by `get` or `changed`.

        `background`: nothing else is held up while there is no news.
        """
        seen = self._seen.setdefault(asyncio.current_task(), self._changes)
        while self._changes == seen:
            await self._next(f"news of {self.name}", background)
        self._seen[asyncio.current_task()] = self._changes
        return cast(M, self.value)

    async def _next(self, what: str, background: bool = False) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        shown_by = tuple(sorted(p.partition("~")[0] for p in self.peers))
        try:
            with self._switch.waits.on(str(self._switch.address), what, shown_by, background):
                await waiter
        finally:
            if waiter in self._waiters:  # given up
                self._waiters.remove(waiter)

    def peer_down(self, peer: str) -> None:
        super().peer_down(peer)
        self._numbers.pop(peer, None)

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        if not isinstance(op, wire.Value) or sender not in self.peers:
            return
        if op.number <= self._numbers.get(sender, 0):
            return
        self._numbers[sender] = op.number
        value = cast(M, record_of(self._switch.codec, op.body, frames, sender))
        self._fit(value, sender)
        self.value = value
        self._changes += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
