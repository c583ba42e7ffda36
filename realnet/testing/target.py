"""The network that is fuzzed: a node that uses every kind of wire, and two honest peers of it.

One peer talks to it for a while, and all that it sends is recorded: real frames, whatever their
layout is. A target is the same node again, alone, which takes the frames of the record or what was
made of them, while the other peer can still ask it something.

Knows nothing of mutations. Called by `fuzz.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realnet.actor import Actor, RunInfo
from realnet.address import Address, parse_address
from realnet.codec import Frame
from realnet.config import Config
from realnet.control import Peer
from realnet.errors import AskError, WireError
from realnet.live import Delivery
from realnet.message import Message, Request, StreamRequest
from realnet.node import Node
from realnet.ports import Ask, Inlet, Outlet, StateIn, StateOut, handles
from realnet.topology.plan import WirePlan
from realnet.transport.memory import MemoryNetwork

RUN = RunInfo("fuzz", Path("run"), 1, False, Path())
TARGET, TALKER, FRIEND = "target/0~1", "talker/0~1", "bystander/0~1"
ROUNDS = 12
LARGE = 17_000
Frames = list[Frame]


class Thing(Message):
    """One item of work."""

    number: int
    small: npt.NDArray[np.int32]
    large: npt.NDArray[np.float32]
    names: tuple[str, ...] = ()
    scores: dict[str, float] = {}
    anything: Any = None


class Level(Message):
    """Something shown."""

    level: float


class Echo(Request[Thing]):
    """Send this back."""

    thing: Thing


class Count(StreamRequest[Level]):
    """Send so many."""

    upto: int


class Note(Message):
    """Said without a reply."""

    text: str


def thing(number: int) -> Thing:
    """Return an item; every fourth has a frame of its own."""
    return Thing(
        number,
        np.arange(number, dtype=np.int32),
        np.ones(LARGE if number % 4 == 0 else 3, np.float32),
        tuple(f"name {i}" for i in range(number)),
        {"a": 0.5},
        {"deep": [1, [2, [None]]]},
    )


class Both(Actor[Config]):
    """Gives, takes, asks, answers, shows and follows: the target, and who talks to it."""

    gives = Outlet(Thing)
    takes = Inlet(Thing, window=8)
    asks = Ask(Echo, Count)
    shows = StateOut(Level)
    follows = StateIn(Level)

    async def run(self) -> None:
        """Do everything that a wire can do."""
        giving = self.spawn(self._give(), name="give")
        for i in range(ROUNDS):
            self.shows.set(Level(i / 2))
            self.asks.tell(Note("x" * i))
            with contextlib.suppress(AskError):  # frames that were changed do not answer
                await self.asks(Echo(thing(i)), deadline_s=0.5)
                async for _ in self.asks.stream(Count(70), deadline_s=0.5):
                    pass
                await self.asks(Echo(thing(1)), deadline_s=0.0)
        await giving

    async def _give(self) -> None:
        for i in range(ROUNDS):
            await self.gives.send(thing(i), key=f"{self.address.role} {i}")

    @takes.handler
    async def on_thing(self, item: Delivery[Thing]) -> None:
        """Take an item."""

    @handles
    async def echo(self, request: Echo) -> Thing:
        """Answer."""
        return request.thing

    @handles
    async def count(self, request: Count) -> AsyncIterator[Level]:
        """Answer many times."""
        for i in range(min(request.upto, 200)):
            yield Level(i)

    @handles
    async def note(self, note: Note) -> None:
        """Hear."""


class Asker(Actor[Config]):
    """An honest peer that only asks."""

    asks = Ask(Echo)


def _wires() -> list[WirePlan]:
    found = []
    for a, b in (("target", "talker"), ("talker", "target")):
        found += [
            WirePlan("share", a, "gives", b, "takes", ("Thing",), ""),
            WirePlan("ask", a, "asks", b, "", ("Echo", "Count"), ""),
            WirePlan("state", a, "shows", b, "follows", ("Level",), ""),
        ]
    return [*found, WirePlan("ask", "bystander", "asks", "target", "", ("Echo",), "")]


class Heard:
    """Owns a node, and keeps what went wrong in it."""

    def __init__(self) -> None:
        self.undeclared: list[BaseException] = []
        self.refused = 0
        self.broken = False

    def actor_failed(self, address: Address, error: BaseException) -> None:
        """Nothing that came over a link may end an actor."""
        self.undeclared.append(error)

    def actor_finished(self, address: Address, text: str) -> None:
        """Nobody here finishes."""

    def link_broken(self, slot: str, text: str) -> None:
        """A peer said that batches of it are lost for good: the head would end that peer."""
        self.broken = True

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """Nobody here wants shared memory."""
        raise NotImplementedError

    def told(self, error: WireError) -> None:
        """Something was refused, as it should be."""
        self.refused += 1


class Target:
    """The node that takes frames, and a bystander who can ask it something."""

    def __init__(self, network: MemoryNetwork, *, talker: bool) -> None:
        self.network = network
        self.heard = Heard()
        names = [TARGET, FRIEND, *([TALKER] if talker else [])]
        self.nodes = {name: Node(name, network.transport(name), RUN, _wires()) for name in names}
        self.cells = {
            name: node.add(Asker if name == FRIEND else Both, parse_address(name), Config())
            for name, node in self.nodes.items()
        }
        self.node = self.nodes[TARGET]
        self.node.owner = self.heard
        self.node.on_wire_error = self.heard.told
        for node in self.nodes.values():
            node.listen()
        for node in self.nodes.values():
            for name in (TARGET, TALKER, FRIEND):
                if name != node.slot:
                    node.connect(Peer(name, f"memory://{name}", (name,)))
                    node.peer_up(name)
        for name, cell in self.cells.items():
            if name != FRIEND:
                cell.begin_run()

    def feed(self, frames: Frames) -> None:
        """Frames come in over the target's transport."""
        self.network.deliver(self.node.transport.endpoint, list(frames))

    async def answers(self) -> bool:
        """Tell whether an honest peer is still answered."""
        asker = self.cells[FRIEND].actor
        assert isinstance(asker, Asker)
        return (await asker.asks(Echo(thing(4)), deadline_s=20.0)).number == 4

    async def close(self) -> None:
        """End all of it."""
        for cell in self.cells.values():
            await cell.end(graceful=False)
        for node in self.nodes.values():
            node.closed = True
            node.transport.close(0)


@contextlib.contextmanager
def _recorded(network: MemoryNetwork, endpoint: str) -> Iterator[list[Frames]]:
    """Record every message for an endpoint, as it is handed to whoever listens there."""
    seen: list[Frames] = []
    attach = network.attach

    def attached(to: str, on_message: Any) -> None:
        def heard(frames: Frames, *more: Any, **also: Any) -> None:
            seen.append(list(frames))
            on_message(frames, *more, **also)

        attach(to, heard if to == endpoint else on_message)

    network.attach = attached  # type: ignore[method-assign,assignment]
    yield seen


async def capture() -> list[Frames]:
    """Return all messages that a live peer sent to the target while both did all they can."""
    network = MemoryNetwork()
    with _recorded(network, f"memory://{TARGET}") as seen:
        target = Target(network, talker=True)
        talker = target.cells[TALKER]
        async with asyncio.timeout(10):
            await asyncio.wait([t for t in talker._tasks if t.get_name().endswith(" run")])
            await asyncio.sleep(0.7)  # acknowledgements that go alone
        await target.close()
    if target.heard.undeclared or target.heard.refused:
        raise AssertionError(f"the record itself went wrong: {target.heard.undeclared}")
    return seen
