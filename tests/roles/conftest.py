"""A bench for one actor: a made-up world and ports that a test scripts. No node, no wires."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from trainer_world import World, in_turns

from realnet.actor import Actor, Clock, RunInfo
from realnet.address import Address
from realnet.config import Config, Shared
from realnet.gang import Gang
from realnet.message import Message
from realnet.roles.journal import Journal
from realnet.roles.trainer import trainer as trainer_module
from realnet.roles.trainer.trainer import Trainer
from realnet.waits import Waits
from realnet.watches import Death


class QuickClock(Clock):
    """Time that passes while somebody sleeps: each turn of the loop is a twentieth of a second."""

    def __init__(self) -> None:
        self.time_s = 0.0
        super().__init__(lambda: self.time_s)

    async def sleep(self, seconds: float) -> None:
        until_s = self.time_s + seconds
        while self.time_s < until_s:
            await asyncio.sleep(0)
            self.time_s += 0.05


class BenchWorld:
    """What a cell does for its actor, with everything observed kept in lists."""

    def __init__(self) -> None:
        self.clock = QuickClock()
        self.rng = random.Random(0)
        self.waits = Waits(self.clock.now)
        self.tasks: list[asyncio.Task[Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.deaths: dict[str, asyncio.Future[Death]] = {}  # a test sets the result

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self.tasks.append(task)
        return task

    async def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Any:
        return fn(*args)

    def observe(self, kind: str, row: dict[str, Any]) -> None:
        if kind == "metrics":
            self.metrics.append(row)
        else:
            self.events.append(row["text"])

    def progress(self, text: str) -> None:
        pass

    def finish(self, text: str) -> None:
        pass

    async def arena(self, name: str, slot_bytes: int, slots: int) -> str:
        raise NotImplementedError

    async def watch(self, address: Address | str) -> Death:
        over = self.deaths.setdefault(str(address), asyncio.get_running_loop().create_future())
        return await asyncio.shield(over)


class ScriptedAsk:
    """The calling end of an ask: a test's coroutine answers."""

    def __init__(self, answer: Callable[[Any], Awaitable[Message]]) -> None:
        self.requests: list[Any] = []
        self._answer = answer

    async def __call__(self, request: Any, *, deadline_s: float = 30.0) -> Any:
        self.requests.append(request)
        return await self._answer(request)


class ScriptedOutlet:
    """The sending end of a share wire: what was sent is in `sent` as (record, key)."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, str]] = []
        self.room = asyncio.Event()
        self.room.set()
        self.tell_aside: Callable[[Any, str], None] = lambda record, reason: None

    async def send(self, record: Any, *, key: str = "", caused_by: Any = None) -> None:
        await self.room.wait()
        self.sent.append((record, key))

    def on_set_aside(self, hook: Callable[[Any, str], None]) -> None:
        self.tell_aside = hook


class ScriptedState:
    """The following end of a state wire, for one follower: a test calls `show`."""

    def __init__(self, value: Any = None) -> None:
        self.value: Any = None
        self._shown, self._seen = 0, 0
        self._news = asyncio.Event()
        if value is not None:
            self.show(value)

    def show(self, value: Any) -> None:
        self.value = value
        self._shown += 1
        self._news.set()

    set = show

    async def get(self, *, background: bool = False) -> Any:
        return await self.changed() if self.value is None else self._look()

    async def changed(self, *, background: bool = False) -> Any:
        while self._seen == self._shown:
            self._news.clear()
            await self._news.wait()
        return self._look()

    def _look(self) -> Any:
        self._seen = self._shown
        return self.value


class Bench:
    """Brings actors up and takes them down."""

    ask, outlet, state = ScriptedAsk, ScriptedOutlet, ScriptedState

    def __init__(self, folder: Path) -> None:
        self.world = BenchWorld()
        self.folder = folder
        self._actors: list[Actor[Any]] = []

    async def start(
        self,
        actor_class: type[Actor[Any]],
        config: Config,
        shared: dict[type[Shared], Any],
        ports: dict[str, Any],
    ) -> Any:
        """Return the actor, started; its main loop is `self.run(actor)`."""
        actor = actor_class()
        actor.config = config
        actor.address = Address(actor_class.__name__.lower(), 0, 1)
        actor.gang = Gang(actor.address, 1, None, self.world.waits)
        actor.run_info = RunInfo("bench", self.folder, 1, False, self.folder)
        actor.clock, actor.rng = self.world.clock, self.world.rng
        actor._world, actor._shared = self.world, shared
        actor.__dict__.update(ports)
        self._actors.append(actor)
        await actor.start()
        return actor

    def run(self, actor: Actor[Any]) -> asyncio.Task[None]:
        """Start the actor's main loop."""
        return self.world.spawn(actor.run(), "run")

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until the condition holds; a task that failed ends the test."""
        while not condition():
            for task in self.world.tasks:
                if task.done() and not task.cancelled():
                    task.result()
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End all tasks and actors."""
        for task in self.world.tasks:
            task.cancel()
        await asyncio.gather(*self.world.tasks, return_exceptions=True)
        for actor in self._actors:
            await actor.stop()
        # Those that a test killed on paper have no process whose end would close their files.
        self._actors.clear()
        self.world.tasks.clear()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench whose run folder and topology folder are an empty one."""
    made = Bench(tmp_path)
    yield made
    await made.close()


@pytest.fixture
def world(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """A maker of worlds; every trainer gets the world's current learner."""

    def make(steps: int = 6, every: int = 2, max_age: int = 1) -> World:
        made = World(bench, tmp_path, steps, every, max_age)
        monkeypatch.setattr(Trainer, "_build", lambda trainer: made.learner)
        monkeypatch.setattr(trainer_module, "Journal", partial(Journal, run=in_turns))
        monkeypatch.setattr(os, "fsync", lambda file: None)
        return made

    return make


@pytest.fixture
def native_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let models run on the kernels in C, on one thread; skips where they cannot be built."""
    import torch

    from realnet.compiled import SWITCH
    from realnet.roles.models.native.built import build
    from realnet.roles.models.native.library import kernels

    _, why = build()
    if why:
        pytest.skip(why)
    monkeypatch.delenv(SWITCH, raising=False)
    kernels.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    kernels.cache_clear()
