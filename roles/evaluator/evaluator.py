"""Measures versions on held-out problems: the first, one every `run.eval` steps, and the last.

    a version is due  ->  for each task with use = "eval":
        ask a driver for answers (pinned to that version)  ->  ask a rewarder  ->  a row, a line

It asks the same driver that training uses, so that it measures what is trained, and in between
training's own requests. When the version is not there any more, it takes the newest and says so.

Waits for: versions that the parameter server announces, answers, judgements. Knows nothing of
engines and weights.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

from realnet import Actor, Ask, Config, StateIn, StateOut, doc
from realnet.config import Seconds, Shared
from realnet.errors import AskError, ConfigError, Refused
from realnet.roles.evaluator.measure import Measure
from realnet.roles.messages import (
    Announced,
    Attempt,
    Judge,
    Measured,
    Measurements,
    PolicyStatus,
    Scored,
    Ticket,
    TicketKey,
    Version,
)
from realnet.roles.samples import EVAL_FILE, write_rows
from realnet.roles.tables import Policy, Schedule, Task
from realnet.roles.tasks import (
    CannotAsk,
    Dataset,
    Problem,
    TextCodec,
    check_asking,
    check_tasks,
    make_ticket,
)

_TRIES = 4
_PAUSE_S = 0.5
_FIRST_STATUS_S = 3.0
_TOLD = 8  # measurements in the state: whoever follows it misses none of a quick few


class EvaluatorConfig(Config):
    """`[roles.evaluator]`."""

    at_once: Annotated[int, doc("problems asked at the same time", ge=1)] = 48
    deadline: Annotated[Seconds, doc('longest wait for one answer, e.g. "10min"')] = Seconds(600)
    last: Annotated[Seconds, doc("how long the end of a run may wait for the last one")] = Seconds(
        120
    )
    samples: Annotated[
        int, doc("problems of each task whose answers are kept in samples.jsonl", ge=0)
    ] = 4


class Evaluator(Actor[EvaluatorConfig]):
    """Measures versions of a policy. Knows nothing of engines, weights or training."""

    shared = (Policy, Task, Schedule)
    versions = StateIn(Announced, joined_by="policy")
    status = StateIn(PolicyStatus, joined_by="policy")
    measured = StateOut(Measurements, joined_by="policy")
    driver = Ask(Attempt)
    rewarder = Ask(Judge)

    @classmethod
    def preload(cls) -> None:
        """Import the tokenizer's library."""
        import realnet.roles.models.reference  # noqa: F401

    @classmethod
    def check(cls, config: EvaluatorConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse held-out tasks that cannot be read or asked, or none at all."""
        from realnet.roles.models.reference import load_tokenizer

        del config
        if not any(task.use == "eval" for task in shared[Task].values()):
            raise ConfigError(
                "[roles.evaluator]: there is nothing to measure. Write a [tasks.X] with "
                'use = "eval", or take the role out: evaluator = false'
            )
        check_tasks(shared[Task], base, use="eval")
        policy, dataset = shared[Policy], Dataset(shared[Task], base)
        check_asking(dataset, dataset.eval_names, policy, load_tokenizer(policy, base))

    async def start(self) -> None:
        """Open tasks and tokenizer, and read the held-out problems."""
        from realnet.roles.models.reference import load_tokenizer

        self._policy, self._tasks = self.one(Policy), self.all(Task)
        base = self.run_info.base
        dataset = Dataset(self._tasks, base)
        self._tokenizer: TextCodec = await self.compute(
            load_tokenizer, self._policy, base, label="load tokenizer"
        )
        self._problems: dict[str, list[Problem]] = {
            name: await self.compute(dataset.held_out, name, label="read problems")
            for name in dataset.eval_names
        }
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._passed: Version | None = None  # nothing up to here is due any more
        self._measured: Version | None = None
        self._pin: Version | None = None
        self._told: deque[Measured] = deque(maxlen=_TOLD)

    # ------------------------------------------------------------ when

    async def run(self) -> None:
        """Measure what is due until the policy is trained and its last version measured."""
        self.spawn(self._follow(self.versions), name="follow versions")
        self.spawn(self._follow(self.status), name="follow status")
        while True:
            version = self._due()
            if version is not None:
                await self._measure_all(version)
                self._passed = self._measured = version
                continue
            if self._at_the_end():
                self._ended.set()
            self.progress("waiting for a version that is due")
            async with self.waiting("a version to measure"):
                await self._news.wait()
            self._news.clear()

    async def drain(self) -> None:
        """When the run came to its end, let the last version be measured; not when interrupted."""
        # A run that is resumed at its very end is over before the first status has come.
        await self._within(self.status.get(), _FIRST_STATUS_S)
        status = self.status.value
        if status is None or not status.finished:
            return
        self._news.set()
        if not await self._within(self._ended.wait(), self.config.last):
            self.event(
                f"the last version was not measured within {self.config.last:.0f} s "
                "([roles.evaluator] last)"
            )

    async def _within(self, work: Coroutine[Any, Any, Any], limit_s: float) -> bool:
        """Wait for something, but not for ever; tell whether it came."""
        came = asyncio.ensure_future(work)
        limit = asyncio.ensure_future(self.clock.sleep(limit_s))
        await asyncio.wait({came, limit}, return_when=asyncio.FIRST_COMPLETED)
        done = came.done()
        for wait in (came, limit):
            wait.cancel()
        return done

    async def _follow(self, state: Any) -> None:
        await state.get()
        while True:
            self._news.set()
            await state.changed()

    def _due(self) -> Version | None:
        """Return the version to measure now, if any."""
        announced = self.versions.value
        if announced is None or announced.newest is None:
            return None
        newest, every = announced.newest.manifest.version, max(1, self.one(Schedule).eval)
        passed = self._passed
        if passed is None:
            # Started in the middle of a run: what was due before was measured, or is gone.
            passed = newest if newest.number % every else None
        elif passed.branch != newest.branch and passed.number > newest.number:
            passed = newest  # the trainer went back to a checkpoint
        self._passed = passed
        if passed is not None and newest.number // every <= passed.number // every:
            return newest if self._is_last(newest) and newest != self._measured else None
        target = newest.number // every * every
        for held in (announced.newest, *announced.older):
            version = held.manifest.version
            if version.number == target and version.branch == newest.branch:
                return version
        self.event(f"{newest.policy} v{target} is gone; measuring {newest}")
        return newest

    def _is_last(self, version: Version) -> bool:
        status = self.status.value
        return status is not None and status.finished and version.number >= status.version.number

    def _at_the_end(self) -> bool:
        announced = self.versions.value
        newest = announced.newest if announced else None
        return newest is not None and self._is_last(newest.manifest.version)

    # ------------------------------------------------------------ how

    async def _measure_all(self, version: Version) -> None:
        self._pin = version
        row: dict[str, float] = {}
        samples: list[dict[str, Any]] = []
        for name in self._problems:
            self.progress(f"measuring {name} at step {version.number}")
            measure = await self._measure(name, version)
            self.event(measure.line(version), step=version.number, task=name)
            row |= measure.row()
            samples += measure.samples
        if row:
            self.metrics(step=version.number, **row)
        if row and self._pin == version:  # else another version wrote some of the answers
            self._told.append(Measured(version, row))
            self.measured.set(Measurements(tuple(self._told)))
        await self.compute(self._write, version, samples, label="write samples")

    async def _measure(self, name: str, version: Version) -> Measure:
        """Ask all held-out problems of one task, a bounded number at once."""
        problems = self._problems[name]
        task = self._tasks[name]
        measure = Measure(name, task, len(problems), self.config.samples)
        ways = (False, True) if task.greedy and task.temperature > 0.0 else (False,)
        todo = ((greedy, *item) for greedy in ways for item in enumerate(problems))

        async def work() -> None:
            for greedy, index, problem in todo:  # shared: each goes to one of the workers
                answers = await self._answers(name, index, problem, version, greedy=greedy)
                if isinstance(answers, str):
                    measure.missing.append(answers)
                elif greedy:
                    measure.add_greedy(index, problem, answers)
                else:
                    measure.add(index, problem, answers)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.at_once, len(problems))):
                group.create_task(work())
        return measure

    async def _answers(
        self, name: str, index: int, problem: Problem, version: Version, *, greedy: bool
    ) -> tuple[Scored, ...] | str:
        """Return the scored answers to one problem, or why there are none."""
        way = f"eval:{name}:greedy" if greedy else f"eval:{name}"
        key = TicketKey(version.policy, index, f"{way}:v{version.number}")
        cause = ""
        for attempt in range(_TRIES):
            pin = self._pin
            try:
                ticket = self._ticket(key, name, problem, pin, greedy=greedy)
                answered = await self.driver(Attempt(ticket), deadline_s=self.config.deadline)
            except CannotAsk as error:
                return str(error)
            except AskError as error:
                cause = f"no answer: {error}"
                if isinstance(error, Refused) and pin is not None and pin == self._pin:
                    self._repin(pin)
                else:
                    await self._pause(attempt)
                continue
            try:
                judged = await self.rewarder(
                    Judge(answered.rollouts), deadline_s=self.config.deadline
                )
            except AskError as error:
                cause = f"no judgement: {error}"
                await self._pause(attempt)
                continue
            return judged.scored
        return cause

    def _ticket(
        self, key: TicketKey, name: str, problem: Problem, pin: Version | None, *, greedy: bool
    ) -> Ticket:
        task = self._tasks[name]
        return make_ticket(
            key,
            name,
            problem,
            self._policy,
            self._tokenizer,
            group=1 if greedy else task.samples,
            temperature=0.0 if greedy else task.temperature,
            pinned=pin,
        )

    def _repin(self, gone: Version) -> None:
        """Choose another version after one was refused: the newest, or at last whichever runs."""
        announced = self.versions.value
        newest = announced.newest.manifest.version if announced and announced.newest else None
        self._pin = newest if newest != gone else None
        chosen = str(self._pin) if self._pin else "whichever version is served"
        self.event(f"{gone} is not served any more; measuring {chosen}")

    async def _pause(self, attempt: int) -> None:
        async with self.waiting("somebody to ask"):
            await self.clock.sleep(_PAUSE_S * 2**attempt)

    def _write(self, version: Version, samples: list[dict[str, Any]]) -> None:
        """Append to samples.jsonl. This role is the file's only writer."""
        write_rows(self.run_info.folder / EVAL_FILE, version.number, version, samples)
