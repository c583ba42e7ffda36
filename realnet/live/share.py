"""What both ends of share wires have in common: the ends they are wired to, by peer and port.

One peer may be wired to a port by several ports of its own, so an end is both. Knows nothing of
sockets. `inlet.py` and `outlet.py` build on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realnet import wire
from realnet.affinity import End
from realnet.codec import Frame
from realnet.live.base import LivePort, Switch
from realnet.ways import DATA, Way


class SharePort(LivePort):
    """One end of share wires."""

    lane = DATA

    def __init__(self, switch: Switch, name: str):
        super().__init__(switch, name)
        self._ports: dict[str, list[str]] = {}  # peer -> its ports
        self._is_later = False
        self._end_ways: dict[End, Way] = {}

    def peer_up(self, peer: str, port: str) -> None:
        super().peer_up(peer, port)
        ports = self._ports.setdefault(peer, [])
        if port not in ports:
            ports.append(port)
            self._end_up((peer, port))

    def peer_down(self, peer: str) -> None:
        super().peer_down(peer)
        for port in self._ports.pop(peer, ()):
            self._end_ways.pop((peer, port), None)
            self._end_down((peer, port))

    def _end_up(self, end: End) -> None:
        raise NotImplementedError

    def _end_down(self, end: End) -> None:
        raise NotImplementedError

    def _send(self, end: End, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        way = self._end_ways.get(end)
        if way is None:
            if end[0] not in self._ports:  # it died in this turn
                return
            way = self._end_ways[end] = self._switch.way(*end, self.name, self.lane)
        way.send(op, frames)

    def _soon(self, turn: Callable[[], None]) -> None:
        """Call `turn` once at the end of this turn of the loop; it resets `_is_later`."""
        if not self._is_later:
            self._is_later = True
            self._switch.later(turn)
