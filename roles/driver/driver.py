"""The driver: a ticket becomes `group` rollouts and a `GroupClosed`.

An answer is one turn, unless a subclass plays longer episodes (`Driver.play`, `episode.py`). It
asks a generator (the one in its own process if it can) for all answers of a ticket at once, holds
their tokens, and lets another generator go on when one dies.

Knows nothing of models, weights or rewards. The prompter feeds it; an evaluator asks it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from realnet import Actor, Ask, Config, Delivery, Inlet, Outlet, doc, handles
from realnet.actor import Beside
from realnet.config import Seconds, Shared
from realnet.errors import RealnetError, Stopping
from realnet.roles.driver.episode import Episode
from realnet.roles.messages import (
    Attempt,
    Delta,
    Generate,
    GroupClosed,
    Rollout,
    Rollouts,
    Ticket,
)
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy

TICKETS = 16  # in hand at once, when nobody knows how many slots there are
LONGEST = 4  # a group waits for its longest answer: so many mean ones, when lengths vary much
AHEAD = 2  # tickets whose answers wait in line, so that a free slot is taken at once
TRIES = 3  # deliveries of a ticket before it is set aside: its drivers died each time


def tickets_for(slots: int, group: int) -> int:
    """Return how many tickets of `group` answers keep so many slots full.

    A ticket is in hand until the last of its answers is done, and few of them are written by then:
    of 8 answers of lognormal lengths the longest takes three times the mean. With fewer tickets
    slots stand empty; with many more they wait in line here while another generator has none.
    """
    return -(-slots * min(LONGEST, group) // group) + AHEAD


def slots_of(role: Beside) -> int:
    """Return how many answers the members of a role write at once; 0 of one without an engine."""
    slots = getattr(getattr(role.config, "engine", None), "slots", 0)
    return role.members * slots if isinstance(slots, int) else 0


class DriverConfig(Config):
    """`[roles.driver]`."""

    tickets: Annotated[
        int,
        doc(
            "tickets in hand at once; each asks for `group` answers; 0: so many that the slots of "
            "the generators stay full",
            ge=0,
        ),
    ] = 0
    deadline: Annotated[Seconds, doc("of one ask; what was written by then stays")] = Seconds(120)

    @property
    def window(self) -> int:
        """How many tickets are in hand at once."""
        return self.tickets or TICKETS


class Driver(Actor[DriverConfig]):
    """Answers tickets. See the module."""

    shared = (Policy,)
    tickets = Inlet(Ticket, window="window")
    rollouts = Outlet(Rollout)
    closed = Outlet(GroupClosed, joined_by="policy")
    engine = Ask(Generate, prefer="local", joined_by="policy")

    @classmethod
    def preload(cls) -> None:
        import realnet.roles.models.tokenizer  # noqa: F401

    @classmethod
    def fit(
        cls,
        config: DriverConfig,
        count: int,
        shared: dict[type[Shared], Any],
        beside: Mapping[str, Beside],
    ) -> DriverConfig:
        """Take as many tickets as keep the generators' slots full, unless the table says."""
        slots = sum(slots_of(other) for other in beside.values())
        if config.tickets or not slots:
            return config
        each = -(-slots // max(1, count))
        return msgspec.structs.replace(config, tickets=tickets_for(each, shared[Policy].group))

    async def start(self) -> None:
        self._tokenizer = load_tokenizer(self.one(Policy), self.run_info.base)
        self._continued = 0

    @tickets.handler
    async def answer(self, item: Delivery[Ticket]) -> None:
        """Answer a ticket; rollouts leave as they are finished, the group closes after the last."""
        ticket = item.body
        samples, reason = ticket.group, ""

        async def send(rollout: Rollout) -> None:
            await self.rollouts.send(
                rollout, key=f"{item.key}#{rollout.key.sample}", caused_by=item
            )

        if item.attempt > TRIES:
            samples, reason = 0, f"its drivers died {item.attempt - 1} times while answering it"
        else:
            try:
                await self._group(ticket, send)
            except Stopping:
                raise
            except RealnetError as error:
                samples, reason = 0, f"{type(error).__name__}: {error}"
        if reason:
            self.event(f"{ticket.key} has no answers: {reason}")
        closed = GroupClosed(ticket.key, samples, reason)
        await self.closed.send(closed, key=item.key, caused_by=item)

    @handles
    async def attempt(self, request: Attempt) -> Rollouts:
        """Answer a ticket and give the rollouts back."""
        done: list[Rollout] = []

        async def keep(rollout: Rollout) -> None:
            done.append(rollout)

        await self._group(request.ticket, keep)
        return Rollouts(tuple(sorted(done, key=lambda r: r.key.sample)))

    async def _group(self, ticket: Ticket, give: Callable[[Rollout], Awaitable[None]]) -> None:
        """Write all answers of a ticket at once. The first that fails ends them all."""

        async def one(sample: int) -> None:
            await give(await self._rollout(ticket, sample))

        try:
            async with asyncio.TaskGroup() as group:
                for sample in range(ticket.group):
                    group.create_task(one(sample), name=f"{ticket.key}#{sample}")
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def play(self, episode: Episode) -> None:
        """Play one episode. A subclass writes turns and calls tools here; this is one answer."""
        await episode.write()

    async def _rollout(self, ticket: Ticket, sample: int) -> Rollout:
        start_s = self.clock.now()
        episode = Episode(ticket, sample, self._tokenizer, self._ask, self._pause)
        try:
            await self.play(episode)
        except RealnetError:
            raise
        except Exception as error:  # somebody's own turns and tools: that ticket's failure only
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise RealnetError(
                f"{type(self).__name__}.play raised {type(error).__name__}: {error} "
                f"({Path(at.filename).name} line {at.lineno})"
            ) from error
        if episode.continued:
            self._continued += episode.continued
            self.metrics(continued=self._continued)
        return episode.rollout(self.clock.now() - start_s)

    def _ask(self, request: Generate) -> AsyncIterator[Delta]:
        return self.engine.stream(request, deadline_s=self.config.deadline)

    async def _pause(self, seconds: float) -> None:
        async with self.waiting("a generator to go on with"):
            await self.clock.sleep(seconds)
