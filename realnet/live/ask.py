"""The calling end of asks. The open calls themselves are in `calls.py`.

Knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar, cast

from realnet import wire
from realnet.codec import Frame
from realnet.live.base import LivePort, Switch
from realnet.message import Message, Request, StreamRequest
from realnet.parcel import Parcel

R = TypeVar("R", bound=Message)


class LiveAsk(LivePort):
    """The calling end of asks to a pool."""

    def __init__(self, switch: Switch, name: str, prefer_local: bool):
        super().__init__(switch, name)
        self._prefer_local = prefer_local
        self._arrival = asyncio.Event()

    async def __call__(
        self, request: Request[R], *, deadline_s: float = 30.0, to: str | None = None
    ) -> R:
        """Ask one member of the pool (or the one named `to`) and return its reply.

        Raises DeadlineExceeded, PeerDied, NoPeer or Refused. A request type with `safe = True` is
        sent to another member when the first one dies.
        """
        reply = await self._switch.calls.ask(self, Parcel(request), deadline_s, to)
        return cast(R, reply)

    def tell(self, record: Message, *, to: str | None = None) -> None:
        """Send a record that wants no reply to every member, or to the one named `to`."""
        parcel = Parcel(record)
        for peer in [to] if to else list(self.peers):
            body, frames = parcel.body(self._switch.codec, self.is_local(peer))
            self._post(peer, wire.Tell(body), frames)

    def stream(self, request: StreamRequest[R], *, deadline_s: float = 120.0) -> AsyncIterator[R]:
        """Ask one member and iterate over the items of its answer. Close it to cancel."""
        items = self._switch.calls.stream(self, Parcel(request), deadline_s)
        return cast("AsyncIterator[R]", items)

    def candidates(self) -> list[str]:
        """The members to choose from now."""
        if self._prefer_local:
            local = [p for p in self.peers if self._switch.is_local(p)]
            if local:
                return local
        return list(self.peers)

    def peer_up(self, peer: str, port: str) -> None:
        super().peer_up(peer, port)
        self._arrival.set()

    def peer_down(self, peer: str) -> None:
        super().peer_down(peer)
        if not self.peers:
            self._arrival.clear()
        self._switch.calls.peer_down(self, peer)

    async def somebody(self) -> None:
        """Wait until the pool has a member."""
        await self._arrival.wait()

    def is_local(self, peer: str) -> bool:
        """Tell whether a member lives in this process."""
        return self._switch.is_local(peer)

    def post(self, peer: str, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """Send an operation to a member."""
        self._post(peer, op, frames)

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        self._switch.calls.receive(sender, op, frames)
