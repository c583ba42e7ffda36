"""Links between processes. `memory` for tests and one-process runs, `zmq` for real ones.

Knows nothing of records or actors: a message here is a list of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from realnet.codec import Frame
from realnet.transport.seals import Seals

OnTrouble = Callable[[str], None]


class OnConnection(Protocol):
    """Told when the connection of a lane to a peer is there or lost."""

    def __call__(self, peer: str, up: bool, lane_number: int = 0) -> None: ...


class OnMessage(Protocol):
    """Takes the frames of one message. `user` is whose key it came with, None without keys.

    `believed` comes with what a guest sent by a connection of its own: to be called with the
    sender's name once that is believed, so that answers find their way.
    """

    def __call__(
        self,
        frames: list[Frame],
        user: str | None = None,
        believed: Callable[[str], None] | None = None,
    ) -> None: ...


class Transport(Protocol):
    """What a node needs of a transport. Peers are named by the node, one name per incarnation.

    A transport has one or more lanes to each peer, each in order, none behind another. It may
    lose messages when a connection breaks; the session above repairs it, sooner if it is told
    through `on_connection` (peer, whether there is a connection now, which lane; with an empty
    name, that an incoming one broke). `on_trouble` is told who was refused, and why. A peer whose
    endpoint is empty cannot be called: it calls us. Our own is empty if nobody can call us.

    Arrays of `inline_bytes` and more had better be frames of their own. With `seals` the lane for
    bulk is signed: its keys must be handed over before it is used.
    """

    endpoint: str
    num_lanes: int
    inline_bytes: int
    on_connection: OnConnection | None
    on_trouble: OnTrouble | None

    @property
    def seals(self) -> Seals | None: ...

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive; `on_message` is called on the loop with the frames of one message."""

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer. Sending may start at once."""

    def send(self, peer: str, frames: Sequence[Frame], lane: int = 0) -> None:
        """Send one message, in order for each lane of a peer. Never blocks."""

    def disconnect(self, peer: str) -> None:
        """The peer is dead: drop what has not reached it."""

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is still queued, for at most `linger_s`, and end."""
