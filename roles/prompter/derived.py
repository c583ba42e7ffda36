"""Issues tickets that somebody's rollouts give rise to: the base of a second policy's prompter.

It stands in the first policy's chain, between rewarder and trainer, and hands everything on at
once. A subclass says what is asked about a rollout (`derive`); the newest questions wait here until
the second policy's ledger has room, and the oldest go: whoever is slow behind this loses questions,
and holds nobody up.

    scored -> passed on          question -> kept -> room -> ticket, its parent the rollout

A number that is issued again, after a death, gets another question: the trainer tells answers to
the two apart by the parent, and takes the group that is whole first.

Waits for: rollouts, room (the trainer's reply), a driver with room. Knows nothing of answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from realnet import Actor, Ask, Config, Delivery, Inlet, Outlet, StateIn, doc
from realnet.config import Shared
from realnet.errors import ConfigError, listed
from realnet.roles.messages import (
    PolicyStatus,
    ReportTickets,
    Scored,
    TakeSlots,
    Ticket,
    TicketKey,
)
from realnet.roles.prompter.reports import Reports
from realnet.roles.slots import SlotAsker
from realnet.roles.tables import Policy, Task
from realnet.roles.tasks import CannotAsk, Problem, TextCodec, make_ticket

_SHOWN = 5  # questions that cannot be asked are told one by one up to here


class DerivedConfig(Config):
    """A derived prompter's own table."""

    keep: Annotated[int, doc("questions that wait for room; when there are more the oldest go")] = (
        256
    )
    wait_s: Annotated[float, doc("seconds that one request for tickets may wait", gt=0)] = 20.0


class Question(NamedTuple):
    """What is asked about a rollout. `task` is needed where several tasks are derived."""

    prompt: str
    answer: str
    task: str = ""


class DerivedPrompter(Actor[DerivedConfig]):
    """Turns other rollouts into tickets. See the module; a subclass writes `derive`."""

    shared = (Policy, Task)
    scored = Inlet(Scored, window=1024)
    passed = Outlet(Scored)
    tickets = Outlet(Ticket)
    trainer = Ask(TakeSlots, ReportTickets, joined_by="policy")
    status = StateIn(PolicyStatus, joined_by="policy")

    def derive(self, scored: Scored) -> Question | None:
        """Return what is asked about a rollout, or None for nothing. Must not wait."""
        raise NotImplementedError(f"{type(self).__name__} has no derive(self, scored)")

    @classmethod
    def preload(cls) -> None:
        """Import the tokenizer's library."""
        import realnet.roles.models.reference  # noqa: F401

    @classmethod
    def check(cls, config: DerivedConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse to have nothing to ask for."""
        del config, base
        if not _derived(shared[Task]):
            raise ConfigError(
                f'{cls.__name__} needs a task of its tickets: a [tasks.X] with use = "derived" '
                "and its rewards"
            )

    async def start(self) -> None:
        """Open the tokenizer."""
        from realnet.roles.models.reference import load_tokenizer

        self._policy, self._tasks = self.one(Policy), self.all(Task)
        self._task = _derived(self._tasks)[0]
        self._tokenizer: TextCodec = await self.compute(
            load_tokenizer, self._policy, self.run_info.base, label="load tokenizer"
        )
        self._questions: deque[tuple[str, Question]] = deque(maxlen=max(1, self.config.keep))
        self._news = asyncio.Event()
        self._reports = Reports(self, self.trainer, self.config.wait_s)
        self._num_issued = self._num_refused = 0
        self.tickets.on_set_aside(self._reports.set_aside)

    @scored.handler
    async def look(self, item: Delivery[Scored]) -> None:
        """Hand a rollout on, and keep what there is to ask about it."""
        await self.passed.send(item.body, caused_by=item, key=item.key)
        question = self.derive(item.body)
        if question is not None:
            self._questions.append((str(item.body.rollout.key), question))
            self._news.set()

    async def run(self) -> None:
        """Issue tickets until the policy is trained."""
        status = await self.status.get()
        self._name = status.version.policy
        self.spawn(self._reports.run(self._name), name="report tickets")
        asker = SlotAsker(self, self.trainer, self.config.wait_s)
        branch = status.version.branch
        while not status.finished:
            if status.version.branch != branch:
                branch, asker.anew = status.version.branch, True  # as in the prompter
            if not self._questions:
                await self._question_there()
            slots = await asker.take(self._name, len(self._questions))
            if slots is not None:
                for start, end in slots.intervals:
                    for number in range(start, end):
                        await self._issue(number)
            status = self.status.value or status
        self.progress("the policy is trained: no more tickets")

    async def _question_there(self) -> None:
        while not self._questions:
            self._news.clear()
            async with self.waiting("a rollout to ask something about"):
                await self._news.wait()

    async def _issue(self, number: int) -> None:
        """Make a ticket of the newest question that can be asked, and hand it to a driver."""
        while True:
            await self._question_there()
            parent, question = self._questions.pop()
            key = TicketKey(self._name, number, parent)
            try:
                ticket = self._ticket(key, parent, question)
                break
            except CannotAsk as error:
                self._num_refused += 1
                if self._num_refused <= _SHOWN:
                    self.event(f"nothing is asked about {parent}: {error}")
        self._num_issued += 1
        await self.tickets.send(ticket, key=f"{key}@{self._num_issued}")
        self._reports.handed(number)

    def _ticket(self, key: TicketKey, parent: str, question: Question) -> Ticket:
        task = question.task or self._task
        if task not in self._tasks:
            raise CannotAsk(f"there is no task {task!r}: there are {listed(self._tasks)}")
        chat = self._tasks[task].chat
        problem = Problem(question.prompt, question.answer, {}, chat, f"asked about {parent}")
        status = self.status.value
        return make_ticket(
            key,
            task,
            problem,
            self._policy,
            self._tokenizer,
            group=self._policy.group,
            temperature=self._policy.temperature,
            at_least=status.version if status is not None else None,
        )


def _derived(tasks: dict[str, Task] | Any) -> list[str]:
    names: Iterable[str] = (name for name, task in tasks.items() if task.use == "derived")
    return sorted(names)
