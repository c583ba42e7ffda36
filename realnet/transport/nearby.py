"""Two ways out of one process of a run over several hosts: sockets in a folder to those that live
on its host, tcp with keys to all others.

The agent of a host makes the folder, of mode 0700, and its processes are told of it; who has the
same folder is on the same host and under the same agent. There is nothing to encrypt then: what
only this user can open needs no keys, as in a run on one machine. The endpoint is one text, the
near part after a blank (`endpoints.py`); whoever does not know the folder takes the far part.

Knows nothing of records or hosts. Made by `opening.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from realnet.codec import Frame
from realnet.transport import OnConnection, OnMessage, OnTrouble
from realnet.transport.endpoints import both_parts, joined_parts
from realnet.transport.seals import Seals
from realnet.transport.zmq import ZmqTransport


class TwoWays:
    """A transport of two: `near` to processes of this host, `far` to the rest."""

    def __init__(self, far: ZmqTransport, near: ZmqTransport, folder: Path):
        self._far, self._near = far, near
        self._folder = f"ipc://{folder}/"
        self._by_peer: dict[str, ZmqTransport] = {}
        self.endpoint = joined_parts(far.endpoint, near.endpoint)
        self.num_lanes = far.num_lanes
        self.inline_bytes = far.inline_bytes  # one record may go both ways

    @property
    def seals(self) -> Seals | None:
        """What signs bulk on the far way; a near peer is given a key as well, and needs none."""
        return self._far.seals

    @property
    def on_connection(self) -> OnConnection | None:
        """Who is told of connections."""
        return self._far.on_connection

    @on_connection.setter
    def on_connection(self, told: OnConnection | None) -> None:
        self._far.on_connection = self._near.on_connection = told

    @property
    def on_trouble(self) -> OnTrouble | None:
        """Who is told of those that were refused."""
        return self._far.on_trouble

    @on_trouble.setter
    def on_trouble(self, told: OnTrouble | None) -> None:
        self._far.on_trouble = self._near.on_trouble = told

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive on both."""
        self._far.listen(on_message)
        self._near.listen(on_message)

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer: the near one if it has our folder."""
        far, near = both_parts(endpoint)
        here = near.startswith(self._folder)
        way = self._by_peer.setdefault(peer, self._near if here else self._far)
        way.connect(peer, near if here else far)

    def send(self, peer: str, frames: Sequence[Frame], lane: int = 0) -> None:
        """Send one message by the way of its peer; to one that is not connected it is dropped."""
        way = self._by_peer.get(peer)
        if way is not None:
            way.send(peer, frames, lane)

    def disconnect(self, peer: str) -> None:
        """The peer is dead."""
        self._by_peer.pop(peer, None)
        self._far.disconnect(peer)
        self._near.disconnect(peer)

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is still queued, for at most `linger_s` each way, and end."""
        self._near.close(linger_s)
        self._far.close(linger_s)
