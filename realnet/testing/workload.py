"""The roles of the simulated scenarios: sources, workers that ask helpers, a sink that remembers.

They use every kind of wire: shares with custody, back-pressure in items and bytes, leases, related
work and a circle (the sink sends some work back); safe asks, streams, a state; and death watch.
What would be a disk in a real run (what a source knows to be done, what the sink made durable) is
the `Oracle`, which outlives every process.

Written as any role is, against `realnet`'s public names. Called by `scenario.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import numpy.typing as npt

from realnet import Delivery
from realnet.actor import Actor
from realnet.config import Config
from realnet.errors import AskError
from realnet.message import Message, Request, StreamRequest
from realnet.ports import Ask, Inlet, Outlet, StateIn, StateOut, handles
from realnet.testing.history import children
from realnet.testing.oracle import ORACLE

DEADLINE_S = 1.0


class Job(Message):
    """One item of work. Those of one episode are for one worker."""

    key: str
    payload: npt.NDArray[np.int32]
    episode: str = ""
    sender: str = ""


class Result(Message):
    """What became of it."""

    key: str
    answer: int


class Number(Message):
    """An answer, or one item of a count."""

    value: int


class Double(Request[Number]):
    """Asks for twice the value."""

    safe = True
    value: int


class Count(StreamRequest[Number]):
    """Asks for the numbers below `upto`."""

    upto: int


class Level(Message):
    """Something that only grows in one life of a helper."""

    level: int


class SourceConfig(Config):
    pause_s: float = 0.02
    lanes: int = 2
    impatient: bool = False


class Source(Actor[SourceConfig]):
    """Offers its keys until each is settled; begins with those that are not, after a restart."""

    jobs = Outlet(Job)
    levels = StateIn(Level)

    async def start(self) -> None:
        """Look up what is left to do."""
        self.oracle = ORACLE.get()
        self.oracle.maybe_crash(self, " start")
        self.left = [k for k in self.oracle.offered[self.address.index] if not self._settled(k)]
        self.wake = asyncio.Event()
        self.watched: set[str] = set()
        self.jobs.on_set_aside(lambda body, why: self._aside(body.key))

    def _settled(self, key: str) -> bool:
        return key in self.oracle.settled

    async def run(self) -> None:
        """Offer everything in a few lanes, wait for the acks, end the run when all is done."""
        todo = iter(self.left)
        lanes = [self.spawn(self._lane(todo), name=f"lane {i}") for i in range(self.config.lanes)]
        self.spawn(self._follow(), name="follow")
        for lane in lanes:
            await lane
        while not all(self._settled(k) for k in self.left):
            self.wake.clear()
            async with self.waiting("acks of what it sent"):
                await self.wake.wait()
        if self.oracle.complete():
            self.finish("all is done")

    async def _lane(self, todo: Iterator[str]) -> None:
        for key in todo:
            await self.clock.sleep(self.rng.expovariate(1.0) * self.config.pause_s)
            await self._offer(key)

    async def _offer(self, key: str) -> None:
        num = int(key.rpartition(".")[2])
        payload = np.full(4 + num * 37 % 200, len(key), np.int32)
        episode = f"e{num % 7}" if num % 3 else ""
        job = Job(key, payload, episode, self.address.full)
        self._watch_workers()
        if key in self.oracle.poison:  # nothing causes it: its end is told to the hook
            await self.jobs.send(job, key=key)
            return
        while True:
            root = Delivery(job, key, 1, lambda aside: self._acked(key, aside))
            sending = self.jobs.send(job, key=key, caused_by=root)
            try:
                if self.config.impatient and self.rng.random() < 0.2:
                    await asyncio.wait_for(sending, self.rng.random() * 0.02)
                else:
                    await sending
            except TimeoutError:
                continue  # taken back, or taken by a consumer just then: offered again
            root.settled()
            return

    def _watch_workers(self) -> None:
        for life in self.jobs.peers:
            if life not in self.watched:
                self.watched.add(life)
                self.spawn(self._mourn(life), name=f"watch {life}")

    async def _mourn(self, life: str) -> None:
        self.oracle.note("watches", self, life)
        death = await self.watch(life)
        self.oracle.note("mourns", self, death.address.full)

    def _acked(self, key: str, aside: str | None) -> None:
        self.oracle.note("aside" if aside else "acked", self, key)
        self.oracle.settled.add(key)
        self.wake.set()

    def _aside(self, key: str) -> None:
        self.oracle.note("aside", self, key)
        self.oracle.settled.add(key)
        self.wake.set()

    async def _follow(self) -> None:
        await self.levels.get()
        while True:
            self.oracle.note("level", self, str((await self.levels.changed()).level))


class WorkerConfig(Config):
    window: int = 4
    window_bytes: int = 1 << 20
    lease_s: float = 0.0
    work_s: float = 0.01


class Worker(Actor[WorkerConfig]):
    """Asks a helper, sends one or two results for each job, and looks again at what comes back."""

    jobs = Inlet(Job, window="window", window_bytes="window_bytes", lease_s="lease_s")
    results = Outlet(Result)
    helper = Ask(Double, Count, prefer="local")

    async def start(self) -> None:
        """Nothing to open."""
        self.oracle = ORACLE.get()
        self.oracle.maybe_crash(self, " start")
        self.sizes: dict[str, int] = {}

    @jobs.handler
    async def work(self, item: Delivery[Job]) -> None:
        """Do one job."""
        key = item.body.key
        self.oracle.note("take", self, key)
        if item.body.episode:
            self.oracle.note("keyed", self, f"{item.body.sender} {item.body.episode}")
        if self.jobs.in_hand > self.config.window:
            self.oracle.note("over", self, str(self.jobs.in_hand))
        self.sizes[key] = item.body.payload.nbytes
        self._look_at_bytes()
        try:
            await self._work(item, key)
        finally:
            del self.sizes[key]

    def _look_at_bytes(self) -> None:
        """One large item may come beside what comes back, and the other way round; no more."""
        back = [size for key, size in self.sizes.items() if key.endswith(".again")]
        new = [size for key, size in self.sizes.items() if not key.endswith(".again")]
        total = sum(back) + sum(new) - max(back, default=0) - max(new, default=0)
        if total > self.config.window_bytes:
            self.oracle.note("over", self, f"{total} bytes")

    async def _work(self, item: Delivery[Job], key: str) -> None:
        self.oracle.maybe_crash(self)
        if key in self.oracle.poison:
            item.set_aside("poison")
            self.oracle.note("end", self, key)
            return
        if key in self.oracle.sticky:
            self.oracle.sticky.discard(key)
            self.oracle.note("sticks", self, key)
            await self.oracle.release.wait()
        await self.clock.sleep(self.rng.expovariate(1.0) * self.config.work_s)
        if key.endswith(".again"):
            self.oracle.note("end", self, key)
            return
        item.progress()
        answer = await self._ask(key)
        for child in children(key):
            await self.results.send(Result(child, answer), key=child, caused_by=item)
        self.oracle.note("end", self, key)

    async def _ask(self, key: str) -> int:
        value = int(key.rpartition(".")[2])
        while True:
            since_s = self.clock.now()
            try:
                if value % 13:
                    answer = (await self.helper(Double(value), deadline_s=DEADLINE_S)).value
                    right = answer == 2 * value
                else:
                    numbers = self.helper.stream(Count(70), deadline_s=DEADLINE_S)
                    right, answer = [n.value async for n in numbers] == list(range(70)), 2 * value
            except AskError as error:
                self.oracle.note("refused", self, type(error).__name__)
                self._look_at_the_time(since_s)
                continue
            self._look_at_the_time(since_s)
            if not right:
                self.oracle.note("wrong", self, key)
            return answer

    def _look_at_the_time(self, since_s: float) -> None:
        took_s = self.clock.now() - since_s
        if took_s > DEADLINE_S + 0.1:
            self.oracle.note("late", self, f"{took_s:.3f}")


class HelperConfig(Config):
    delay_s: float = 0.003


class Helper(Actor[HelperConfig]):
    """Answers questions and shows a level that grows."""

    level = StateOut(Level)

    async def start(self) -> None:
        """Show the first level."""
        self.oracle = ORACLE.get()
        self.oracle.maybe_crash(self, " start")
        self._grow()

    def _grow(self) -> None:
        self.oracle.level += 1
        self.level.set(Level(self.oracle.level))

    @handles
    async def double(self, request: Double) -> Number:
        """Answer after a while."""
        await self.clock.sleep(self.rng.expovariate(1.0) * self.config.delay_s)
        self.oracle.maybe_crash(self)
        if request.value % 10 == 3:
            self._grow()
        return Number(2 * request.value)

    @handles
    async def count(self, request: Count) -> AsyncIterator[Number]:
        """Count, with a pause."""
        for i in range(request.upto):
            if i == 30:
                await self.clock.sleep(self.config.delay_s)
            yield Number(i)


class SinkConfig(Config):
    window: int = 8


class Sink(Actor[SinkConfig]):
    """Makes each result durable once, some only after a worker has looked at it again."""

    results = Inlet(Result, window="window")
    again = Outlet(Job)

    async def start(self) -> None:
        """Nothing to open: the oracle is the disk."""
        self.oracle = ORACLE.get()
        self.oracle.maybe_crash(self, " start")

    @results.handler
    async def keep(self, item: Delivery[Result]) -> None:
        """Make one result durable, unless it is."""
        key = item.body.key
        self.oracle.note("take", self, key)
        if self.results.in_hand > self.config.window:
            self.oracle.note("over", self, str(self.results.in_hand))
        self.oracle.maybe_crash(self)
        if key not in self.oracle.durable:
            if item.body.answer % 8 == 2:
                job = Job(f"{key}.again", np.full(10, 1, np.int32))
                await self.again.send(job, key=job.key, caused_by=item)
            await self.compute(self._commit, key)
            if item.body.answer % 6 == 0:
                item.done()
        self.oracle.note("end", self, key)

    def _commit(self, key: str) -> None:
        self.oracle.durable.add(key)
        self.oracle.note("durable", self, key)


TOPOLOGY = """
[roles.source]
kind = "realnet.testing.workload:Source"
count = {sources}
restart = "1000 per 1s"
[roles.worker]
kind = "realnet.testing.workload:Worker"
count = {workers}
restart = "1000 per 1s"
[roles.helper]
kind = "realnet.testing.workload:Helper"
{helper}
restart = "1000 per 1s"
[roles.sink]
kind = "realnet.testing.workload:Sink"
restart = "1000 per 1s"
[wires]
jobs = {{ path = "source -> worker", affinity = "episode" }}
results = "worker -> sink"
again = {{ path = "sink -> worker", feedback = 1 }}
help = "worker -> helper"
level = "helper -> source"
"""
