"""Links inside one process: for tests, and for running a whole topology in one loop.

Frames are handed over as bytes on the next turn of the loop, so a record always goes through the
codec, as on a real link. Public: users test their roles with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from realnet.codec import INLINE_BYTES, Frame
from realnet.transport import OnConnection, OnMessage, OnTrouble


class MemoryNetwork:
    """A set of endpoints that can reach each other."""

    def __init__(self) -> None:
        self._listeners: dict[str, OnMessage] = {}
        self._count = 0

    def transport(self, name: str = "") -> MemoryTransport:
        """Make a transport with an endpoint of its own."""
        self._count += 1
        return MemoryTransport(self, f"memory://{name or self._count}")

    def attach(self, endpoint: str, on_message: OnMessage) -> None:
        """An endpoint starts to receive."""
        self._listeners[endpoint] = on_message

    def detach(self, endpoint: str) -> None:
        """An endpoint is gone; what is under way to it is lost, as on a real link."""
        self._listeners.pop(endpoint, None)

    def deliver(self, endpoint: str, frames: list[Frame]) -> None:
        """Hand one message to an endpoint, if it is still there."""
        listener = self._listeners.get(endpoint)
        if listener is not None:
            listener(frames)


class MemoryTransport:
    """One endpoint of a `MemoryNetwork`."""

    num_lanes = 1
    inline_bytes = INLINE_BYTES
    seals = None

    def __init__(self, network: MemoryNetwork, endpoint: str):
        self.endpoint = endpoint
        self.on_connection: OnConnection | None = None  # never called: nothing breaks here
        self.on_trouble: OnTrouble | None = None
        self.network = network
        self._peers: dict[str, str] = {}

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive."""
        self.network.attach(self.endpoint, on_message)

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer."""
        self._peers[peer] = endpoint

    def send(self, peer: str, frames: Sequence[Frame], lane: int = 0) -> None:
        """Deliver on the next turn of the loop."""
        endpoint = self._peers.get(peer)
        if endpoint is not None:
            copied: list[Frame] = [bytes(f) for f in frames]
            asyncio.get_running_loop().call_soon(self.network.deliver, endpoint, copied)

    def disconnect(self, peer: str) -> None:
        """Forget a peer."""
        self._peers.pop(peer, None)

    def close(self, linger_s: float = 1.0) -> None:
        """Stop receiving."""
        self.network.detach(self.endpoint)
