"""What every live port is: one actor's end of its wires.

It hears which peers are up or down, takes the operations that come for it and posts its own.
Knows nothing of sockets and processes: posting goes through a `Switch` (the actor's cell).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from realnet import wire
from realnet.address import Address
from realnet.calls import Calls
from realnet.codec import Codec, Frame
from realnet.errors import WireError, listed
from realnet.message import Message, kind_of
from realnet.waits import Waits
from realnet.ways import CONTROL, Take, Way


class Switch(Protocol):
    """What a live port needs of its node."""

    codec: Codec
    waits: Waits
    address: Address
    calls: Calls

    def way(self, to: str, port: str, sender_port: str, lane: int) -> Way: ...
    def is_local(self, peer: str) -> bool: ...
    def later(self, fn: Callable[[], None]) -> None: ...
    def task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]: ...
    def progress_mark(self) -> int: ...


class LivePort:
    """What the node tells every port. `peers` maps peer -> the port of it that this is wired to."""

    lane = CONTROL

    def __init__(self, switch: Switch, name: str):
        self._switch = switch
        self.name = name
        self.kinds: tuple[type[Message], ...] = ()  # what it is for, once that is known
        self.peers: dict[str, str] = {}
        self._ways: dict[str, Way] = {}
        self.done = 0  # how many things have come to an end here, or were offered

    @property
    def waiting(self) -> int:
        """How many things nobody has taken yet."""
        return 0

    @property
    def held(self) -> int:
        """How many things are under way."""
        return 0

    def wired(self, role: str, port: str, reserve: int, affinity: str) -> None:
        """The plan has a wire from here to a port of a role, or from there to here."""

    def peer_up(self, peer: str, port: str) -> None:
        """A peer that this port is wired to can be talked to."""
        self.peers[peer] = port

    def peer_down(self, peer: str) -> None:
        """A peer is gone for good (this incarnation of it)."""
        self.peers.pop(peer, None)
        self._ways.pop(peer, None)

    def taker(self, sender: str, sender_port: str) -> Take:
        """Return what takes the operations of one port of a peer."""

        def take(op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
            self.receive(sender, sender_port, op, frames)

        return take

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        """An operation came for this port."""
        raise NotImplementedError

    def close(self) -> None:
        """The actor is going; fail what waits."""

    def _fit(self, record: Message, sender: str = "") -> None:
        """Raise WireError for a record of another kind than this port is for."""
        if type(record) not in self.kinds and self.kinds:
            whose = f", which {sender} sent" if sender else ""
            raise WireError(
                f"{self._switch.address}.{self.name} is for {listed(map(kind_of, self.kinds))}, "
                f"not for a {kind_of(type(record))}{whose}"
            )

    def _post(self, peer: str, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        way = self._ways.get(peer)
        if way is None:
            port = self.peers.get(peer)
            if port is None:
                return
            way = self._ways[peer] = self._switch.way(peer, port, self.name, self.lane)
        way.send(op, frames)
