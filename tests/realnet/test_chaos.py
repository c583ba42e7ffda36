"""Deaths at random moments of random roles: nothing is lost, nothing sticks, the stop is clean."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from link_ends import until
from small_net import topology

from realnet.testing import Running, running

NUM, DEATHS = 250, 12


def _restless(text: str) -> str:
    """Every role may die as often as it likes, and comes back at once."""
    text = text.replace('restart = "50 per 1min"\n', "")
    return text.replace("kind", 'restart = "1000 per 1s"\nkind')


class Sinks:
    """What all lives of the sink got."""

    def __init__(self, run: Running):
        self.run = run
        self.lives: list[dict[int, object]] = []

    def look(self) -> None:
        try:
            got = self.run.actor("sink/0").got
        except (LookupError, AttributeError):  # not there, or not started yet
            return
        if not any(got is life for life in self.lives):
            self.lives.append(got)

    def got(self) -> set[int]:
        self.look()
        return {value for life in self.lives for value in life}


@pytest.mark.parametrize("seed", [0, 1, 2, None])
async def test_random_deaths(seed: int | None, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"seed {seed}")
    rng = random.Random(seed)
    before = asyncio.all_tasks()
    async with running(_restless(topology(tmp_path, num=NUM, workers=3)), tmp_path) as run:
        sinks = Sinks(run)
        await run.until(lambda: run.is_up("source/0"))
        sinks.look()  # the first life may die before the first pause
        victims = [s for s in run.head.supervisor.slots if s != "source/0"]
        source = run.actor("source/0")
        deaths = 0
        while source.sent < NUM - 20 and deaths < DEATHS:
            # Now and then at once again: while the last one, or the same one, is starting.
            for _ in range(rng.choice((0, 1, 5, 15))):
                await asyncio.sleep(rng.choice((0, 0.001, 0.004)))
                sinks.look()
            for slot in rng.sample(victims, rng.choice((1, 1, 2, 5))):
                deaths += slot in run.launcher.alive()
                run.kill(slot)
        assert deaths >= 5
        await run.until(lambda: all(run.is_up(s) for s in run.head.supervisor.slots))
        await run.until(lambda: source.sent == NUM and source.numbers.leased == 0)
        assert sinks.got() == set(range(NUM)) - {13}
        assert source.numbers.waiting == 0
        assert set(source.aside) == {(13, "thirteen")}
        for i in range(3):
            worker = run.actor(f"worker/{i}")
            assert worker.numbers.in_hand == 0
            assert worker.squares.leased == 0
        assert not any("head failed" in e for e in run.events())
    assert not run.launcher.alive()
    assert not any("did not stop in order" in e for e in run.events())
    await until(lambda: asyncio.all_tasks() <= before)
