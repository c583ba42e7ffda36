"""The trainer actor: steps, versions, checkpoints and books, through deaths at any moment.

A made-up learner stands in for the model, and a test for everybody else; store, journal,
checkpoints, parameter server and shared memory are the real ones.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from trainer_world import Outside, World, book, to_the_end

from realnet.config import Steps
from realnet.errors import ConfigError, PeerDied
from realnet.roles.algorithms.presets import Loss
from realnet.roles.messages import (
    GroupClosed,
    PolicyStatus,
    ReportTickets,
    TicketKey,
)
from realnet.roles.tables import Save, Schedule, Until
from realnet.roles.trainer.failures import Diverged
from realnet.roles.trainer.trainer import TrainerConfig


async def test_a_run_trains_publishes_saves_exports_and_closes_its_books(
    world: Callable[..., World],
) -> None:
    made = world(steps=5, every=2)
    await made.begin()
    await to_the_end(made, Outside(made))
    assert made.finished == "trained 5 steps"
    assert [str(v) for v in made.numbers] == [f"policy v0.{n}" for n in range(6)]
    status = made.status.value
    assert isinstance(status, PolicyStatus)
    assert (status.step, status.finished) == (5, True)
    names = sorted(p.name for p in (made.folder / "checkpoints").iterdir())
    assert names == ["step_000004", "step_000005"]
    assert (made.folder / "export" / "value").read_text() == str(made.learner.value)
    counts = book(made)["counts"]
    assert counts["trained"] == 15
    assert counts["issued"] == sum(counts.values()) - counts["issued"]
    rows = [row for row in made.bench.world.metrics if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["age_max"] <= 1 for row in rows)
    assert {"wait_s", "step_s", "publish_s", "tickets_trained", "duplicates"} <= set(rows[0])
    assert any("15 trained" in event for event in made.bench.world.events)


@pytest.mark.parametrize("every", [1, 3])
async def test_synchronous_runs_with_kills_end_with_the_weights_of_one_without(
    world: Callable[..., World], every: int
) -> None:
    """At max_age 0 every batch follows from the version before it: deaths must change nothing."""
    calm = world(steps=6, every=6, max_age=0)
    calm.folder = calm.folder / "calm"
    calm.folder.mkdir()
    calm.bench.folder = calm.folder
    await calm.begin()
    await to_the_end(calm, Outside(calm))
    assert [r["age_max"] for r in calm.bench.world.metrics if "loss" in r] == [0.0] * 6

    for seed in range(6):
        rng = random.Random(seed)
        made = world(steps=6, every=every, max_age=0)
        made.folder = made.folder / f"kills {seed}"
        made.folder.mkdir()
        made.bench.folder = made.folder
        await made.begin()
        outside = Outside(made)
        kills = 0
        while not made.finished:
            work = asyncio.ensure_future(outside.turn())
            for _ in range(rng.randrange(200)):
                await asyncio.sleep(0)
            if kills < 12 and not made.finished and rng.random() < 0.7:
                await made.kill(work)
                kills += 1
                outside.first = True
                await made.begin()
            else:
                await work
                made.check()
        assert kills > 2
        assert made.learner.value == calm.learner.value
        assert len(set(made.numbers)) == len(made.numbers)
        assert book(made)["counts"]["trained"] == 18
        await made.kill()


async def test_asked_to_stop_it_saves_and_a_resume_goes_on_exactly_there(
    world: Callable[..., World],
) -> None:
    made = world(steps=6, every=100)
    await made.begin()
    outside = Outside(made)
    while made.trainer._store.step < 3:
        await outside.turn()
    await made.trainer.drain()
    step, value = made.trainer._store.step, made.learner.value
    assert f"step {step}" in next(e for e in made.bench.world.events if "asked to stop" in e)
    await made.kill()
    await made.begin()
    assert made.trainer._store.step == step
    assert made.learner.value == value
    assert str(made.trainer._store.version) == f"policy v1.{step}"
    assert made.trainer._store.lost_steps == 0
    outside.first = True
    await to_the_end(made, outside)
    assert book(made)["counts"]["trained"] == 18


async def test_a_parameter_server_that_dies_is_asked_again(world: Callable[..., World]) -> None:
    made = world(steps=3)
    asked = 0

    def dying(request: Any) -> None:
        nonlocal asked
        asked += 1
        if asked % 3:
            raise PeerDied("parameter_server/0 died")

    made.before = dying
    await made.begin()
    await to_the_end(made, Outside(made))
    assert [v.number for v in made.numbers] == [0, 1, 2, 3]


async def test_a_batch_without_finite_loss_is_kept_and_dropped(
    world: Callable[..., World],
) -> None:
    made = world(steps=3)
    await made.begin()
    made.learner.bad = lambda groups: groups[0].key.ticket == 3
    await to_the_end(made, Outside(made))
    counts = book(made)["counts"]
    assert (counts["dropped"], counts["trained"]) == (3, 9)
    assert book(made)["reasons"]["dropped"] == {"no finite loss in step 2": 3}
    kept = made.folder / "failures" / "step_000002-1.msgpack"
    assert kept.stat().st_size > 100
    assert any(str(kept) in event for event in made.bench.world.events)


async def test_three_in_a_row_end_the_run_with_the_evidence(world: Callable[..., World]) -> None:
    made = world(steps=3)
    await made.begin()
    made.learner.bad = lambda groups: True
    outside = Outside(made)
    with pytest.raises(Diverged, match=r"3 batches in a row .*step_000001-3\.msgpack"):
        await to_the_end(made, outside)
    assert made.learner.value == 1
    made.trainer._store.ledger.check()


async def test_a_run_in_which_every_ticket_is_set_aside_ends_and_says_why(
    world: Callable[..., World],
) -> None:
    made = world(steps=3)
    await made.begin()
    outside = Outside(made)
    assert made.run is not None
    while not made.run.done():
        await outside.take()
        for key, record in list(outside.waiting.items()):
            if isinstance(record, GroupClosed):
                record = GroupClosed(record.key, 0, "too long (7)")
            await outside._deliver(key, record)
    with pytest.raises(ConfigError, match=r"last 200 tickets were set aside .* too long \(7\)"):
        made.check()
    made.trainer._journal.close()
    await made.begin()  # mended: what was set aside before does not count
    outside.first = True
    await to_the_end(made, outside)


async def test_a_filter_that_drops_everything_is_named_and_ends_the_run(
    world: Callable[..., World],
) -> None:
    made = world(steps=3)
    made.config = TrainerConfig(loss=Loss(dynamic_sampling=True), unfit=9)
    await made.begin()  # every answer of this world has reward 1
    assert made.run is not None
    outside, told = Outside(made), set()
    while not made.run.done():
        await outside.turn()
        told |= {what for what, _, _ in made.bench.world.waits.of(str(made.trainer.address))}
    with pytest.raises(
        ConfigError, match=r"loss\.dynamic_sampling dropped the last \d+ groups .* rewards are 1\."
    ):
        made.check()
    assert any("of 3 scored groups; loss.dynamic_sampling dropped the last" in t for t in told)
    said = [e for e in made.bench.world.events if "no step is possible" in e]
    assert len(said) == 1
    assert "dropped the last 6 groups" in said[0]
    assert "all rewards are 1" in said[0]
    counts = made.trainer._store.ledger.counts()
    assert counts["dropped"] >= 9
    assert counts["trained"] == counts["buffered"] == 0


async def test_dynamic_sampling_asks_for_others_instead(world: Callable[..., World]) -> None:
    made = world(steps=3)
    made.config = TrainerConfig(loss=Loss(dynamic_sampling=True))
    made.rewards = lambda ticket, sample: float(sample == 0 or ticket % 3 == 0)
    await made.begin()
    await to_the_end(made, Outside(made))
    counts = book(made)["counts"]
    assert counts["trained"] == 9
    assert counts["dropped"] >= 3
    assert book(made)["reasons"]["dropped"] == {"all rewards are 1": counts["dropped"]}
    rows = [row for row in made.bench.world.metrics if "loss" in row]
    assert 3 <= sum(row["groups_unfit"] for row in rows) <= counts["dropped"]


async def test_a_damaged_older_checkpoint_does_not_stop_the_run(
    world: Callable[..., World],
) -> None:
    made = world(steps=6, every=1)
    made.schedule = Schedule(until=Until(steps=6), save=Save(every=Steps(1), keep=4))
    await made.begin()
    outside = Outside(made)
    while made.trainer._store.step < 3:
        made.check()
        await outside.turn()
    (made.folder / "checkpoints" / "step_000001" / "meta.json").write_bytes(b"{")
    await to_the_end(made, outside)
    assert made.finished == "trained 6 steps"


async def test_a_schedule_that_is_done_ends_at_once(world: Callable[..., World]) -> None:
    made = world(steps=2)
    await made.begin()
    await to_the_end(made, Outside(made))
    await made.kill()
    made.finished = ""
    await made.begin()
    await to_the_end(made, Outside(made))
    assert made.finished == "trained 2 steps"
    assert str(made.newest) == "policy v1.2"


async def test_rollouts_of_tickets_that_nobody_issued_are_set_aside(
    world: Callable[..., World],
) -> None:
    made = world()
    await made.begin()
    outside = Outside(made)
    outside.waiting["99"] = GroupClosed(TicketKey("policy", 99), 1)
    await outside.turn()
    assert outside.asides == ["ticket 99 of policy was never issued (next: 0)"]
    await made.trainer.report_tickets(ReportTickets("policy", (77,), ((78, "late"),)))
    made.trainer._store.ledger.check()
