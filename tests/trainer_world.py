"""A trainer between a parameter server and a scripted outside, with a made-up learner.

Store, journal, checkpoints, parameter server and shared memory are the real ones. Used by the tests
of the trainer actor.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realnet.config import Steps
from realnet.errors import Refused
from realnet.live import Delivery
from realnet.message import Nothing
from realnet.roles.messages import (
    Announced,
    Group,
    GroupClosed,
    OpenSlot,
    ReportTickets,
    Rollout,
    SampleKey,
    Scored,
    Segment,
    Span,
    TakeSlots,
    TicketKey,
    Version,
)
from realnet.roles.parameter_server import ParameterServer, ParameterServerConfig
from realnet.roles.tables import Policy, Save, Schedule, Task, Until
from realnet.roles.trainer.learner_config import NonFinite
from realnet.roles.trainer.trainer import Trainer, TrainerConfig

GROUP = 2


async def in_turns(work: Callable[[], None]) -> None:
    """Run the journal's work between turns of the loop: others act before it and after it."""
    await asyncio.sleep(0)
    work()
    await asyncio.sleep(0)


class FakeLearner:
    """Weights are one number that depends on every rollout trained with, in order."""

    tokens = "abc"

    def __init__(self) -> None:
        self.value = 1
        self.bad: Callable[[Sequence[Group]], bool] = lambda groups: False
        self.met: list[tuple[int, int]] = []  # (ticket, age of a span) as trained with

    def refer(self, folder: Path) -> None:
        """Needs no reference."""

    def score(self, rows: Sequence[Any]) -> list[Any]:
        return [np.zeros(len(where), np.float32) for _, where in rows]

    def step(
        self, groups: Sequence[Group], current: Version, age: Callable[[Version], int]
    ) -> dict[str, float]:
        if self.bad(groups):
            raise NonFinite(f"{current}: loss nan")
        texts = "".join(s.rollout.text for g in groups for s in g.scored)
        self.value = zlib.crc32(f"{self.value} {texts}".encode())
        ages = [(g.key.ticket, age(span.version)) for g in groups for s in g.scored
                for segment in s.rollout.segments for span in segment.spans]  # fmt: skip
        self.met += ages
        return {"loss": 0.5, "age_max": float(max(of_span for _, of_span in ages))}

    def canary(self, version: Version) -> None:
        return None

    def outgoing(self, what: str) -> list[tuple[str, np.ndarray, str]]:
        return [("value", np.full(100, self.value, np.int64), "int64")]

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "value").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = int((folder / "value").read_text())

    def adopt(self, folder: Path) -> str:
        self.load(folder)
        return "with its optimizer's moments"

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "value").write_text(str(self.value))

    def warm_start(self, demos: Any, report: Any) -> None:
        raise AssertionError("not asked for")


class Shown:
    """The showing end of a state wire."""

    def __init__(self) -> None:
        self.value: Any = None

    def set(self, value: Any) -> None:
        self.value = value


class World:
    """A host with a parameter server and room for one trainer after another."""

    def __init__(self, bench: Any, folder: Path, steps: int, every: int, max_age: int) -> None:
        self.bench, self.folder = bench, folder
        bench.world.arena = self._arena
        bench.world.finish = self._finish
        self.policy = Policy(model="new:llama", batch=3, group=GROUP, max_age=max_age)
        self.schedule = Schedule(
            until=Until(steps=steps), save=Save(every=Steps(every), keep=2, export="hf")
        )
        self.finished = ""
        self.announced, self.status = Shown(), Shown()
        self.measured: Any = Shown()
        self.numbers: list[Version] = []
        self.before: Callable[[Any], None] = lambda request: None
        self.server: Any = None
        self.trainer: Any = None
        self.learner = FakeLearner()
        self.config = TrainerConfig()
        self.rewards: Callable[[int, int], float] = lambda ticket, sample: 1.0
        self.run: asyncio.Task[None] | None = None

    def _finish(self, text: str) -> None:
        self.finished = text

    async def _arena(self, name: str, slot_bytes: int, slots: int) -> str:
        path = self.folder / name
        with path.open("ab") as file:
            file.truncate(slot_bytes * slots)
        return str(path)

    async def _ask(self, request: Any) -> Any:
        self.before(request)
        try:
            if isinstance(request, OpenSlot):
                return await self.server.open_slot(request)
            reply = await self.server.commit_version(request)
        except Exception as error:
            raise Refused(str(error)) from error
        self.numbers.append(request.manifest.version)
        return reply

    async def begin(self) -> None:
        """Start what is not there; the trainer goes on from what the run's folder holds."""
        if self.server is None:
            self.server = await self.bench.start(
                ParameterServer,
                ParameterServerConfig(),
                {Policy: self.policy},
                {"announced": self.announced},
            )
        self.learner = FakeLearner()
        shared = {
            Policy: self.policy,
            Schedule: self.schedule,
            Task: {"addz": Task(data="new:addz", reward={"exact": 1.0})},
        }
        ports = {
            "server": self.bench.ask(self._ask),
            "status": self.status,
            "measured": self.measured,
        }
        self.trainer = await self.bench.start(Trainer, self.config, shared, ports)
        self.run = self.bench.run(self.trainer)

    async def kill(self, *others: asyncio.Future[Any]) -> None:
        """End the trainer, and who talks to it, between two turns of the loop, as by kill -9."""
        assert self.run is not None
        self.check()
        self.trainer._journal.close()
        for task in (self.run, *others):
            task.cancel()
        await asyncio.gather(self.run, *others, return_exceptions=True)

    def check(self) -> None:
        """Fail when the trainer's main loop has failed."""
        if self.run is not None and self.run.done():
            self.run.result()

    @property
    def newest(self) -> Version:
        assert isinstance(self.announced.value, Announced)
        assert self.announced.value.newest is not None
        return self.announced.value.newest.manifest.version


def scored(ticket: int, sample: int, version: Version, reward: float = 1.0) -> Scored:
    """A rollout whose text follows from its key and the version's number, not its branch."""
    ids = np.arange(4, dtype=np.int32)
    spans = (Span(version, 4),)
    segment = Segment("model", ids, np.zeros(4, np.float32), spans, learn=True)
    text = f"[{ticket}.{sample} by {version.number}]"
    key = SampleKey(TicketKey("policy", ticket), sample)
    return Scored(Rollout(key, "addz", "2+2=", text, "4", (segment,), "stop"), reward)


class Outside:
    """Prompter, driver and rewarder in one: keeps what is not acknowledged, over deaths."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: dict[str, Any] = {}  # key -> record in custody
        self.asides: list[str] = []
        self.open: set[asyncio.Task[Any]] = set()
        self.first = True

    async def turn(self) -> None:
        """Take tickets, answer them with the newest version, deliver everything that waits."""
        await self.take()
        for key, record in list(self.waiting.items()):
            await self._deliver(key, record)

    async def take(self) -> None:
        trainer = self.world.trainer
        work = asyncio.ensure_future(trainer.take_slots(TakeSlots("policy", 4, self.first)))
        for _ in range(60):
            await asyncio.sleep(0)
        if not work.done():  # no room: the deadline passes
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return
        self.first = False
        version = self.world.newest
        for start, end in work.result().intervals:
            for ticket in range(start, end):
                for sample in range(GROUP):
                    reward = self.world.rewards(ticket, sample)
                    record = scored(ticket, sample, version, reward)
                    self.waiting.setdefault(f"{ticket}#{sample}", record)
                closing = GroupClosed(TicketKey("policy", ticket), GROUP)
                self.waiting.setdefault(f"{ticket}", closing)
            handed = ReportTickets("policy", tuple(range(start, end)))
            assert await trainer.report_tickets(handed) == Nothing()

    async def _deliver(self, key: str, record: Any) -> None:
        def done(aside: str | None) -> None:
            self.waiting.pop(key, None)
            if aside is not None:
                self.asides.append(aside)

        item: Delivery[Any] = Delivery(record, key, 1, done)
        trainer = self.world.trainer
        take = trainer.take_closed if isinstance(record, GroupClosed) else trainer.take_scored
        await take(item)
        item.settled()


async def to_the_end(world: World, outside: Outside) -> None:
    while not world.finished:
        world.check()
        await outside.turn()
    await world.run  # type: ignore[misc]


def book(world: World) -> dict[str, Any]:
    return json.loads((world.folder / "ledger.json").read_text())  # type: ignore[no-any-return]
