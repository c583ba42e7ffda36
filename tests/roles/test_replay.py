"""A run's journal tells its steps again: the same batches in the same order, through any deaths."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_rl import topology
from trainer_world import FakeLearner, Outside, World, to_the_end

from realnet.config import Steps
from realnet.errors import CheckpointError, ConfigError
from realnet.roles.checkpoints.checkpoint import Checkpoints, Found
from realnet.roles.messages import Version
from realnet.roles.tables import Save, Schedule, Until
from realnet.roles.trainer.tape import Tape, first_replayable
from realnet.roles.verbs.keys import keys_of
from realnet.topology import read_plan, read_source, resolve
from realnet.topology.plan import write_plan


def schedule(steps: int, keep: int, journal: str, every: int = 2) -> Schedule:
    save = Save(every=Steps(every), keep=keep, journal=journal)  # type: ignore[arg-type]
    return Schedule(until=Until(steps=steps), save=save)


def played(folder: Path, begin: Found, last: int, most: int = 0) -> tuple[FakeLearner, list[Any]]:
    """Return a learner that went through the tape, and what each of its steps was."""
    learner = FakeLearner()
    learner.load(begin.folder / "learner")
    tape = Tape(folder, begin, "policy", last)
    rows = []
    for taken in tape.steps(most):
        version = taken.version

        def age(written: Version, version: Version = version) -> int:
            return tape.age(written, version)

        signs = learner.step(taken.groups, version, age)
        rows.append((taken.step, str(version), signs["age_max"]))
    tape.close()
    return learner, rows


def value(folder: Path, step: int) -> int:
    return int((folder / f"checkpoints/step_{step:06d}/learner/value").read_text())


async def test_a_calm_run_is_told_again_step_by_step(world: Callable[..., World]) -> None:
    made = world(steps=6)
    made.schedule = schedule(6, 9, "all")
    await made.begin()
    await to_the_end(made, Outside(made))
    await made.trainer.stop()
    checkpoints = Checkpoints(made.folder / "checkpoints", keep=9)
    begin = first_replayable(made.folder)
    assert begin.step == 0
    learner, rows = played(made.folder, begin, 6)
    assert learner.value == value(made.folder, 6)
    told = [(r["step"], r["age_max"]) for r in made.bench.world.metrics if "loss" in r]
    assert [(step, age) for step, _, age in rows] == told
    assert [v for _, v, _ in rows] == [f"policy v0.{n}" for n in range(6)]
    half, _ = played(made.folder, checkpoints.at(2), 6, most=2)
    assert half.value == value(made.folder, 4)


@pytest.mark.parametrize("seed", range(6))
async def test_a_run_with_deaths_is_told_as_the_weights_of_today_went(
    world: Callable[..., World], seed: int
) -> None:
    """Killed at random turns: steps are undone and taken again, some tickets are answered anew."""
    rng = random.Random(seed)
    made = world(steps=10, max_age=rng.choice((0, 1, 2)))
    made.schedule = schedule(10, 2, "all", every=3)
    await made.begin()
    outside = Outside(made)
    deaths = 0
    while not made.finished:
        made.check()
        await outside.turn()
        if deaths < 3 and not made.finished and rng.random() < 0.5:
            deaths += 1
            await made.kill()
            outside.first = True
            await made.begin()
    await made.run  # type: ignore[misc]
    await made.trainer.stop()
    assert deaths
    begin = first_replayable(made.folder)
    assert begin.step == 0
    learner, rows = played(made.folder, begin, 10)
    assert learner.value == value(made.folder, 10)
    ages = {r["step"]: r["age_max"] for r in made.bench.world.metrics if "loss" in r}
    assert {step: age for step, _, age in rows} == ages


async def test_of_a_trimmed_journal_what_is_left_is_told(world: Callable[..., World]) -> None:
    made = world(steps=8)
    made.schedule = schedule(8, 2, "needed", every=1)
    await made.begin()
    await to_the_end(made, Outside(made))
    await made.trainer.stop()
    begin = first_replayable(made.folder)
    assert begin.step == 7
    learner, _ = played(made.folder, begin, 8)
    assert learner.value == value(made.folder, 8)


async def test_a_journal_that_lacks_a_group_says_so(world: Callable[..., World]) -> None:
    made = world(steps=4)
    made.schedule = schedule(4, 9, "all", every=1)
    await made.begin()
    await to_the_end(made, Outside(made))
    await made.trainer.stop()
    begin = first_replayable(made.folder)
    for segment in sorted((made.folder / "journal").glob("*.log"))[2:]:
        segment.unlink()
    with pytest.raises(CheckpointError, match="records were lost"):
        played(made.folder, begin, 4)
    for segment in (made.folder / "journal").glob("*.log"):
        segment.unlink()
    with pytest.raises(CheckpointError, match="nothing can be replayed"):
        first_replayable(made.folder)


# ------------------------------------------------------------ keys

TOPOLOGY = topology({"run": {"until": None}, "roles.trainer": {"lr": 1e-3}})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(TOPOLOGY)
    folder = tmp_path / "run"
    for attempt, override in ((1, "roles.trainer.lr=2e-3"), (2, "roles.trainer.lr=1e-3")):
        made = resolve(read_source(tmp_path / "small.toml", (override,)), "run")
        (folder / f"attempts/{attempt}").mkdir(parents=True)
        write_plan(made, folder / f"attempts/{attempt}")
    write_plan(made, folder)
    (folder / "topology.toml").write_text(TOPOLOGY.replace('extends = "rl"', ""))
    return folder


def test_each_attempt_has_its_keys(run: Path) -> None:
    keys = keys_of(run, read_plan(run), "policy", ())
    assert [keys.of(n).trainer.lr for n in (1, 2, 3)] == [2e-3, 1e-3, 1e-3]
    assert not keys.changed


def test_a_preset_opens_anew_when_a_key_is_changed(run: Path) -> None:
    changes = ("roles.trainer.algorithm=dapo", "policy.max_age=3", "run.until.steps=7")
    keys = keys_of(run, read_plan(run), "policy", changes)
    found = keys.of(1)
    assert (found.trainer.algorithm, found.trainer.lr) == ("dapo", 1e-3)
    assert found.trainer.loss.clip[1] > found.trainer.loss.clip[0]  # dapo's own, not rloo's
    assert (found.policy.max_age, found.until_steps) == (3, 7)
    written = keys.plan(read_plan(run), "1")
    assert json.loads(json.dumps(written.shared["policy"]["policy"]["max_age"])) == 3


@pytest.mark.parametrize(
    "change", ["policy.group=2", "roles.generator.count=2", "tasks.addz.seed=1"]
)
def test_what_would_change_what_was_generated_is_refused(run: Path, change: str) -> None:
    with pytest.raises(ConfigError, match=r"a replay generates nothing, so only \[roles.trainer\]"):
        keys_of(run, read_plan(run), "policy", (change,))
