"""Links between processes. `memory` for tests and one-process runs, `zmq` for real ones.

Knows nothing of records or actors: a message here is a list of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from realnet.codec import Frame

OnMessage = Callable[[list[Frame]], None]


class Transport(Protocol):
    """What a node needs of a transport. Peers are named by the node, one name per incarnation."""

    endpoint: str

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive; `on_message` is called on the loop with the frames of one message."""

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer. Sending may start at once."""

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        """Send one message, in order for each peer. Never blocks."""

    def disconnect(self, peer: str) -> None:
        """The peer is dead: drop what has not reached it."""

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is still queued, for at most `linger_s`, and end."""
