"""The driver: a ticket becomes `group` rollouts and a `GroupClosed`.

An answer is one turn, unless a subclass plays longer episodes (`Driver.play`, `episode.py`). It
asks a generator (the one in its own process if it can) for all answers of a ticket at once, holds
their tokens, and lets another generator go on when one dies.

Knows nothing of models, weights or rewards. The prompter feeds it; an evaluator asks it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

from realnet import Actor, Ask, Config, Delivery, Inlet, Outlet, doc, handles
from realnet.config import Seconds
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

TRIES = 3  # deliveries of a ticket before it is set aside: its drivers died each time


class DriverConfig(Config):
    """`[roles.driver]`."""

    tickets: Annotated[int, doc("tickets in hand at once; each asks for `group` answers", ge=1)] = (
        16
    )
    deadline: Annotated[Seconds, doc("of one ask; what was written by then stays")] = Seconds(120)


class Driver(Actor[DriverConfig]):
    """Answers tickets. See the module."""

    shared = (Policy,)
    tickets = Inlet(Ticket, window="tickets")
    rollouts = Outlet(Rollout)
    closed = Outlet(GroupClosed, joined_by="policy")
    engine = Ask(Generate, prefer="local", joined_by="policy")

    @classmethod
    def preload(cls) -> None:
        import realnet.roles.models.tokenizer  # noqa: F401

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
