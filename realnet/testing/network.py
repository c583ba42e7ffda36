"""A network with faults below what a link promises: all that the sessions above must make good.

Delay, slow links; partitions that hold messages back until they heal (`cut`); connections that
break, lose what is under way and come back (`sever`); single messages lost, doubled, out of order.
What a dead sender had under way is cut off at a point drawn from the seed (its kernel sent the head
of the queue, its io thread took the tail along); what is under way to a dead receiver is lost.

Same interface as `transport/memory.py`. Knows nothing of records. Names of endpoints are
"slot~incarnation"; faults are told by slot, so that they hold for its next lives too.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from realnet.codec import INLINE_BYTES, Frame
from realnet.transport import OnConnection, OnMessage, OnTrouble


class Weather(NamedTuple):
    """How links behave when nothing is wrong. Delays are seconds."""

    least_s: float = 0.0002
    most_s: float = 0.005
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


class _Link:
    """One direction between two endpoints."""

    __slots__ = ("from_slot", "last_s", "queue", "receiver", "sender", "to_slot")

    def __init__(self, sender: str, receiver: str):
        self.sender, self.receiver = sender, receiver
        self.from_slot, self.to_slot = _slot(sender), _slot(receiver)
        self.queue: deque[list[Frame]] = deque()
        self.last_s = 0.0


class SimulatedNetwork:
    """A set of endpoints that can reach each other, more or less."""

    def __init__(self, seed: int = 0, weather: Weather | None = None):
        self.rng = random.Random(f"network {seed}")
        self.weather = weather or Weather()
        self.messages = 0
        self.lost = 0
        self._listeners: dict[str, tuple[OnMessage, contextvars.Context]] = {}
        self._links: dict[tuple[str, str], _Link] = {}
        self._transports: dict[str, SimulatedTransport] = {}
        self._cut: dict[tuple[str, str], int] = {}
        self._severed: dict[tuple[str, str], int] = {}
        self._slow: dict[tuple[str, str], float] = {}
        self._dead: set[str] = set()
        self._count = 0

    def transport(self, name: str = "") -> SimulatedTransport:
        """Make a transport with an endpoint of its own."""
        self._count += 1
        transport = SimulatedTransport(self, f"sim://{name or self._count}")
        self._transports[transport.endpoint] = transport
        return transport

    @property
    def rest_s(self) -> float:
        """When the last of what is under way now arrives, if nothing is cut."""
        return max((link.last_s for link in self._links.values()), default=0.0)

    # ------------------------------------------------------------ faults

    def cut(self, sender: str, receiver: str) -> None:
        """Hold everything from one slot to another until `heal`. Cuts are counted."""
        pair = sender, receiver
        self._cut[pair] = self._cut.get(pair, 0) + 1

    def heal(self, sender: str, receiver: str) -> None:
        """Take one cut back; what was held goes on its way, in order."""
        pair = sender, receiver
        if self._cut.get(pair, 0) > 1:
            self._cut[pair] -= 1
            return
        self._cut.pop(pair, None)
        for link in self._links.values():
            if (link.from_slot, link.to_slot) == pair:
                for _ in link.queue:
                    self._fly(link)

    def sever(self, sender: str, receiver: str, seconds: float) -> None:
        """Break the connection from one slot to another; both ends see it. It comes back."""
        pair = sender, receiver
        self._severed[pair] = self._severed.get(pair, 0) + 1
        for link in self._links.values():
            if (link.from_slot, link.to_slot) == pair:
                self.lost += len(link.queue)
                link.queue.clear()
        self._tell_connections(pair, up=False)
        asyncio.get_running_loop().call_later(seconds, self._mend, pair)

    def _mend(self, pair: tuple[str, str]) -> None:
        self._severed[pair] -= 1
        if not self._severed[pair]:
            del self._severed[pair]
            self._tell_connections(pair, up=True)

    def _tell_connections(self, pair: tuple[str, str], up: bool) -> None:
        """Each end hears of it in its own process, as from a socket's monitor."""
        loop = asyncio.get_running_loop()
        for link in list(self._links.values()):
            if (link.from_slot, link.to_slot) != pair:
                continue
            for endpoint, other in ((link.sender, link.receiver), (link.receiver, "")):
                listener, transport = self._listeners.get(endpoint), self._transports[endpoint]
                tell = transport.on_connection
                if listener is None or tell is None or (up and not other):
                    continue
                for peer in (
                    [p for p, e in transport.peers.items() if e == other] if other else [""]
                ):
                    loop.call_soon(tell, peer, up, context=listener[1].copy())

    def slow(self, sender: str, receiver: str, factor: float) -> None:
        """Make a link slower by a factor; 1 makes it itself again."""
        self._slow[sender, receiver] = factor

    def end(self, endpoint: str, *, killed: bool) -> None:
        """An endpoint is gone; if it was killed, the tail of what it sent is lost."""
        self._listeners.pop(endpoint, None)
        self._dead.add(endpoint)
        for (sender, receiver), link in list(self._links.items()):
            if receiver == endpoint:
                self.lost += len(link.queue)
                del self._links[sender, receiver]
            elif sender == endpoint and killed and link.queue:
                for _ in range(self.rng.randint(0, len(link.queue))):
                    link.queue.pop()
                    self.lost += 1

    # ------------------------------------------------------------ as MemoryNetwork

    def attach(self, endpoint: str, on_message: OnMessage) -> None:
        """An endpoint starts to receive, in the process that says so; what came before waits."""
        self._listeners[endpoint] = on_message, contextvars.copy_context()
        for link in self._links.values():
            if link.receiver == endpoint:
                for _ in link.queue:
                    self._fly(link)

    def detach(self, endpoint: str) -> None:
        """An endpoint ends in order: what it sent arrives."""
        self.end(endpoint, killed=False)

    def send(self, sender: str, receiver: str, frames: Sequence[Frame]) -> None:
        """Put one message on its way."""
        self.messages += 1
        if receiver in self._dead:
            self.lost += 1
            return
        link = self._links.get((sender, receiver))
        if link is None:
            link = self._links[sender, receiver] = _Link(sender, receiver)
        if self._severed and (link.from_slot, link.to_slot) in self._severed:
            self.lost += 1
            return
        weather = self.weather
        copied: list[Frame] = [f if type(f) is bytes else bytes(f) for f in frames]
        held = bool(self._cut) and (link.from_slot, link.to_slot) in self._cut
        copies = 1
        if weather.loss or weather.duplicate or weather.reorder:
            copies -= self.rng.random() < weather.loss
            self.lost += copies == 0
            copies += copies > 0 and self.rng.random() < weather.duplicate
        for _ in range(copies):
            if link.queue and self.rng.random() < weather.reorder:
                link.queue.insert(len(link.queue) - 1, copied)
            else:
                link.queue.append(copied)
            if not held:
                self._fly(link)

    def _fly(self, link: _Link) -> None:
        """Set the arrival of one more of a link's messages, never before the one sent earlier."""
        there = self._listeners.get(link.receiver)
        if there is None:
            return
        loop = asyncio.get_running_loop()
        weather, now_s = self.weather, loop.time()
        delay_s = weather.least_s + self.rng.random() * (weather.most_s - weather.least_s)
        if self._slow:
            delay_s *= self._slow.get((link.from_slot, link.to_slot), 1.0)
        arrival_s = now_s + delay_s
        if arrival_s > link.last_s:
            link.last_s = arrival_s
        loop.call_at(link.last_s, self._arrive, link, context=there[1])

    def _arrive(self, link: _Link) -> None:
        if not link.queue or (self._cut and (link.from_slot, link.to_slot) in self._cut):
            return  # cut while under way: it waits for the heal; or its sender died
        there = self._listeners.get(link.receiver)
        if there is not None:
            there[0](link.queue.popleft())


class SimulatedTransport:
    """One endpoint of a `SimulatedNetwork`."""

    num_lanes = 1
    inline_bytes = INLINE_BYTES
    seals = None

    def __init__(self, network: SimulatedNetwork, endpoint: str):
        self.endpoint = endpoint
        self.on_connection: OnConnection | None = None
        self.on_trouble: OnTrouble | None = None
        self._network = network
        self.peers: dict[str, str] = {}

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive."""
        self._network.attach(self.endpoint, on_message)

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer."""
        self.peers[peer] = endpoint

    def send(self, peer: str, frames: Sequence[Frame], lane: int = 0) -> None:
        """Put one message on its way."""
        endpoint = self.peers.get(peer)
        if endpoint is not None:
            self._network.send(self.endpoint, endpoint, frames)

    def disconnect(self, peer: str) -> None:
        """Forget a peer."""
        self.peers.pop(peer, None)

    def close(self, linger_s: float = 1.0) -> None:
        """Stop receiving."""
        self._network.detach(self.endpoint)


def _slot(endpoint: str) -> str:
    return endpoint.removeprefix("sim://").partition("~")[0]
