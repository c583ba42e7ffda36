"""How old tokens may become in a long run: half of all groups filtered away, answers that come late
and in any order, deaths in the middle, and another batch size in another life.

Store, journal, checkpoints and admission are the real ones (see trainer_world).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec
import pytest
from trainer_world import Outside, World, book

from realnet.roles.algorithms.presets import Loss
from realnet.roles.trainer.trainer import TrainerConfig

STEPS = 200


class Late(Outside):
    """Tickets are answered by the version that is out when they go, and come when chance says."""

    def __init__(self, world: World, rng: random.Random, share: float) -> None:
        super().__init__(world)
        self.rng, self.share = rng, share

    async def turn(self) -> None:
        await self.take()
        tickets = dict.fromkeys(key.partition("#")[0] for key in self.waiting)
        ready = {ticket for ticket in tickets if self.rng.random() < self.share}
        for key, record in list(self.waiting.items()):
            if key.partition("#")[0] in ready:
                await self._deliver(key, record)


ORDERLY = [("mask", 0, 0.3), ("mask", 1, 1.0), ("hold", 1, 0.3), ("hold", 3, 0.2), ("drop", 2, 0.3)]
KILLED = [("mask", 0, 1.0), ("mask", 1, 1.0), ("drop", 2, 0.3)]


@pytest.mark.parametrize(
    ("over_age", "max_age", "share", "killed"),
    [*((*case, False) for case in ORDERLY), *((*case, True) for case in KILLED)],
)
async def test_no_step_meets_an_older_token(
    world: Callable[..., World], over_age: str, max_age: int, share: float, killed: bool
) -> None:
    """In many lives: stopped in order, each with a batch of its own, or killed at any moment.

    What was on its way when a trainer died may come late and too old, unless it is dropped; that it
    carries no gradient then is the learner's business. So nothing is late where lives are killed.
    """
    rng = random.Random(max_age)
    made = world(steps=STEPS, every=7, max_age=max_age)
    made.policy = msgspec.structs.replace(made.policy, over_age=over_age)
    made.config = TrainerConfig(loss=Loss(dynamic_sampling=True))
    made.rewards = lambda ticket, sample: float(sample == 0 and ticket * 2654435761 % 7 < 4)
    await made.begin()
    outside = Late(made, rng, share)
    lives, old, issued, met = 1, 0, 0, 0
    while not made.finished:
        work = asyncio.ensure_future(outside.turn())
        for _ in range(rng.randrange(300)):
            await asyncio.sleep(0)
        if made.finished or rng.random() > 0.05:
            await work
        else:
            if not killed:
                await work
                await made.trainer.drain()
            before = made.trainer._store.ledger
            await made.kill(work)
            lives += 1
            if not killed:
                made.policy = msgspec.structs.replace(made.policy, batch=rng.choice([2, 3, 5]))
                if made.policy.batch < before.batch:
                    old = before.issued  # by a larger bound than the one that holds now
            outside.first = True
            await made.begin()
            issued = made.trainer._store.ledger.issued
            assert killed or issued == before.issued
        made.check()
        ledger = made.trainer._store.ledger
        if ledger.issued > issued:  # a rollback may leave more out; then nothing new goes
            assert ledger.out <= ledger.bound
        issued = ledger.issued
        trained, made.learner.met = made.learner.met, []
        assert all(age <= max_age for ticket, age in trained if ticket >= old), (trained, old)
        met += sum(ticket >= old for ticket, _ in trained)
    counts = book(made)["counts"]
    assert lives > 5
    assert met > 2 * STEPS
    assert counts["dropped"] > 0.4 * counts["trained"]
    assert len(set(made.numbers)) == len(made.numbers)
    assert outside.asides == []
    await made.kill()
