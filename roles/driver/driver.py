"""The single-turn driver: a ticket becomes `group` rollouts and a `GroupClosed`.

It asks a generator (the one in its own process if it can) for all answers of a ticket at once,
holds their tokens, and lets another generator go on when one dies.

Knows nothing of models, weights or rewards. The prompter feeds it; an evaluator asks it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

import msgspec
import numpy as np

from realnet import Actor, Ask, Config, Delivery, Inlet, Outlet, doc, handles
from realnet.config import Seconds
from realnet.errors import RealnetError, Stopping
from realnet.roles.driver.answer import Partial, write
from realnet.roles.messages import (
    Attempt,
    Delta,
    Generate,
    GroupClosed,
    Rollout,
    Rollouts,
    SampleKey,
    Sampling,
    Segment,
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

    async def _rollout(self, ticket: Ticket, sample: int) -> Rollout:
        start_s = self.clock.now()
        sampling = sampling_of(ticket, sample, self._tokenizer.eos_id)
        request = Generate(
            policy=ticket.key.policy,
            prompt_ids=ticket.prompt_ids,
            sampling=sampling,
            tokens_so_far=np.zeros(0, np.int32),
            session=str(ticket.key),
            pinned=ticket.pinned,
            at_least=ticket.at_least,
        )
        partial = Partial()
        stop = await write(self._ask, request, partial, self._pause)
        if partial.continued:
            self._continued += partial.continued
            self.metrics(continued=self._continued)
        tokens = partial.tokens
        prompt = Segment("prompt", ticket.prompt_ids, np.zeros(0, np.float32))
        return Rollout(
            key=SampleKey(ticket.key, sample),
            task=ticket.task,
            prompt=ticket.prompt,
            text=self._tokenizer.decode(tokens[:-1] if stop == "stop" else tokens),
            answer=ticket.answer,
            segments=(prompt, partial.segment()),
            stop=stop,
            generated_s=self.clock.now() - start_s,
            episode=str(SampleKey(ticket.key, sample)),
        )

    def _ask(self, request: Generate) -> AsyncIterator[Delta]:
        return self.engine.stream(request, deadline_s=self.config.deadline)

    async def _pause(self, seconds: float) -> None:
        async with self.waiting("a generator to go on with"):
            await self.clock.sleep(seconds)


def sampling_of(ticket: Ticket, sample: int, eos_id: int) -> Sampling:
    """Return how one answer is drawn: it ends at eos at least, and a seed is its own."""
    sampling = ticket.sampling
    if not sampling.stop_ids:
        sampling = msgspec.structs.replace(sampling, stop_ids=(eos_id,))
    if sampling.seed is not None:
        text = f"{ticket.key}#{sample} {sampling.seed}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        sampling = msgspec.structs.replace(sampling, seed=int.from_bytes(digest, "big") >> 1)
    return sampling
