"""Runs begun with another's weights, and the checkpoint that held-out problems call best."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trainer_world import Outside, World, book, to_the_end

from realnet.config import Seconds, Steps
from realnet.errors import CheckpointError, ConfigError, RunFolderError
from realnet.roles.checkpoints.best import Best, check_best, measured_name, row_name
from realnet.roles.checkpoints.checkpoint import Checkpoints
from realnet.roles.checkpoints.meta import read_meta
from realnet.roles.checkpoints.origin import locate, split
from realnet.roles.ledger import Lineage
from realnet.roles.messages import Measured, Measurements, Version
from realnet.roles.tables import Save, Schedule, Task, Until
from realnet.topology import Plan
from realnet.topology.plan import write_plan

NAME = "eval/test/pass@1"


def written_plan(folder: Path, policies: tuple[str, ...] = ("policy",), best: str = "") -> None:
    shared: dict[str, Any] = {
        "policy": {name: {"model": "new:llama"} for name in policies},
        "run": {"": {"save": {"best": best}}},
    }
    write_plan(
        Plan(folder.name, "small", "small.toml", str(folder), {}, (), (), (), shared, {}), folder
    )


@pytest.fixture
async def trained(world: Callable[..., World], tmp_path: Path) -> World:
    """A run of six steps in a folder of its own, checkpoints 4 and 6."""
    made = world(steps=6, every=2)
    made.folder = made.bench.folder = tmp_path / "first"
    made.folder.mkdir()
    written_plan(made.folder)
    await made.begin()
    await to_the_end(made, Outside(made))
    await made.trainer.stop()
    made.server = None
    return made


async def forked(made: World, origin: str, steps: int = 2) -> World:
    made.folder = made.bench.folder = made.folder.parent / "second"
    made.folder.mkdir(exist_ok=True)
    made.numbers, made.finished = [], ""
    made.schedule = msgspec.structs.replace(made.schedule, until=Until(steps=steps), origin=origin)
    await made.begin()
    return made


# ------------------------------------------------------------ forks


async def test_a_fork_begins_with_the_weights_and_with_books_of_its_own(trained: World) -> None:
    value = (trained.folder / "checkpoints/step_000004/learner/value").read_text()
    made = await forked(trained, "first@4")
    assert str(made.learner.value) == value
    await to_the_end(made, Outside(made))
    assert [str(v) for v in made.numbers] == ["policy v1.0", "policy v1.1", "policy v1.2"]
    assert book(made)["counts"]["trained"] == 6
    assert any("with the weights of first@4 (policy v0.4)" in e for e in made.bench.world.events)
    first, last = (read_meta(f) for f in (Checkpoints(made.folder / "checkpoints", keep=1).at(s)
                                          for s in (0, 2)))  # fmt: skip
    assert first.origin == last.origin == "first@4 (policy v0.4)"


async def test_a_forked_run_that_is_killed_resumes_itself_and_uses_no_number_twice(
    trained: World,
) -> None:
    made = await forked(trained, "first", steps=4)
    outside = Outside(made)
    while made.trainer._store.step < 3:
        made.check()
        await outside.turn()
    await made.kill()
    outside.waiting.clear()
    outside.first = True
    await made.begin()
    await to_the_end(made, outside)
    versions = [(v.branch, v.number) for v in made.numbers]
    assert len(set(versions)) == len(versions)
    assert {branch for branch, _ in versions} == {1, 2}
    assert book(made)["counts"]["trained"] == 12


async def test_a_chain_of_forks_never_uses_a_branch_again() -> None:
    lineage = Lineage("policy")
    assert lineage.resume(Version("policy", 0, 6)) == 1
    again = Lineage.restore(lineage.snapshot())
    assert again.resume(Version("policy", 1, 0)) == 2  # a fork counts from 0
    now = Version("policy", 2, 3)
    assert again.age(Version("policy", 2, 0), now) == 3
    assert again.ancestor(now, 0) == Version("policy", 2, 0)
    assert lineage.ancestor(Version("policy", 1, 8), 6) == Version("policy", 1, 6)
    assert lineage.ancestor(Version("policy", 1, 8), 5) == Version("policy", 0, 5)


async def test_weights_of_another_vocabulary_are_refused(trained: World) -> None:
    class Other(type(trained.learner)):  # type: ignore[misc]
        tokens = "xyz"

    trained.folder = trained.bench.folder = trained.folder.parent / "second"
    trained.folder.mkdir()
    trained.schedule = msgspec.structs.replace(trained.schedule, origin="first")
    monkey = pytest.MonkeyPatch()
    monkey.setattr("trainer_world.FakeLearner", Other)
    try:
        with pytest.raises(ConfigError, match="was trained with another vocabulary"):
            await trained.begin()
    finally:
        monkey.undo()
    assert not (trained.folder / "checkpoints").exists()


# ------------------------------------------------------------ names of checkpoints


def test_what_names_a_checkpoint() -> None:
    assert split("demo") == ("demo", "")
    assert split("demo@40") == ("demo", "40")
    assert split("runs/a@b/demo@best") == ("runs/a@b/demo", "best")
    assert split("runs/a@b/demo") == ("runs/a@b/demo", "")
    with pytest.raises(ConfigError, match='"demo@x" names no checkpoint'):
        split("demo@x")


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", keep=9)
    for step in steps:
        meta = {"policy": "policy", "branch": 0, "number": step, "journal_from": 1}
        checkpoints.save(step, {"meta.json": json.dumps(meta).encode()}, lambda folder: None)
    return checkpoints


def test_a_checkpoint_is_found_by_step_newest_or_best(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    run.mkdir()
    written_plan(run, best="eval.test.pass@1")
    saved(run, 10, 20, 30)
    values = {10: 0.5, 20: 0.7, 40: 0.9}
    rows = [{"step": s, NAME: v, "eval/test/reward": 9 - v} for s, v in values.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert locate("demo", tmp_path).found.step == 30
    assert locate(f"{run}@10", tmp_path / "elsewhere").found.step == 10
    best = locate("demo@best", tmp_path)
    assert best.found.step == 20  # step 40 was better and is not there
    assert str(best) == "demo@20 (policy v0.20)"
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 15\. Steps there: 10, 20"):
        locate("demo@15", tmp_path)
    with pytest.raises(RunFolderError, match=r'no run "dem" under .* Runs: demo'):
        locate("dem", tmp_path)


def test_best_of_a_run_that_was_not_measured_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    run.mkdir()
    written_plan(run)
    saved(run, 10)
    with pytest.raises(CheckpointError, match=r"none of its checkpoints \(steps 10\) was measured"):
        locate("demo@best", tmp_path)


def test_of_several_policies_one_must_be_named(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    run.mkdir()
    written_plan(run, policies=("a", "b"))
    saved(run / "b", 5)
    assert locate("demo", tmp_path, "b").policy == "b"
    with pytest.raises(ConfigError, match='no policy "policy"; it has: a, b'):
        locate("demo", tmp_path)


# ------------------------------------------------------------ the best one


def test_the_best_and_the_unmeasured_are_spared() -> None:
    best = Best(NAME, every=10)
    best.add_all([(0, 0.1), (10, 0.8), (20, 0.3)])
    assert best.of([0, 10, 20, 25]) == 10
    assert best.spared([0, 10, 20, 25]) == {10}  # 25 is never measured
    assert best.spared([0, 10, 20, 30]) == {10, 30}
    assert best.spared([0, 10, 20, 30, 40, 50, 60, 70]) == {10, 50, 60, 70}
    best.add(30, 0.8)
    assert best.of([10, 30]) == 30  # of equal ones the newest
    best.forget_after(20)
    assert best.of([10, 30]) == 10
    assert Best(NAME).of([1]) is None


def test_what_best_may_name() -> None:
    task = Task(data="new:addz", reward={"exact": 1.0}, use="eval")
    check_best("", {})
    check_best("eval.test.pass@1", {"test": task})
    assert row_name("eval.a.b.pass@1") == "eval/a.b/pass@1"
    assert measured_name("", [{"step": 1}, {"eval/x/length": 1, NAME: 2}]) == NAME
    for wrong, why in (
        ("pass@1", 'write "eval.TASK.pass@1". Measured: test'),
        ("eval.tset.pass@1", 'no task "tset" is measured'),
        ("eval.test.pass@8", '"pass@8" is not measured'),
    ):
        with pytest.raises(ConfigError) as error:
            check_best(wrong, {"test": task})
        assert why in str(error.value)


async def test_the_best_checkpoint_stays_and_is_exported(world: Callable[..., World]) -> None:
    made = world(steps=8)
    save = Save(every=Steps(4), keep=1, best="eval.test.pass@1")
    made.schedule = Schedule(until=Until(steps=8), eval=Steps(2), save=save)
    made.measured = made.bench.state()
    good = {0: 0.1, 2: 0.3, 4: 0.9, 6: 0.5, 8: 0.6}
    told: list[Measured] = []
    await made.begin()
    outside = Outside(made)
    while not made.finished:
        made.check()
        await outside.turn()
        for version in made.numbers:
            if version.number in good and version not in [m.version for m in told]:
                told.append(Measured(version, {NAME: good[version.number]}))
                made.measured.show(Measurements(tuple(told)))
    names = sorted(p.name for p in (made.folder / "checkpoints").iterdir())
    assert names == ["step_000004", "step_000008"]
    assert "best by eval.test.pass@1: step 4" in made.bench.world.events
    for export, step in (("export-best", 4), ("export", 8)):
        saved_there = made.folder / f"checkpoints/step_{step:06d}/learner/value"
        assert (made.folder / export / "value").read_text() == saved_there.read_text()


async def test_without_a_measurement_nobody_waits_at_the_end(world: Callable[..., World]) -> None:
    made = world(steps=2)
    save = Save(every=Steps(2), keep=1, best="eval.test.pass@1")
    made.schedule = Schedule(until=Until(steps=2), eval=Steps(1), save=save)
    made.measured = made.bench.state()
    await made.begin()
    await to_the_end(made, Outside(made))
    assert not (made.folder / "export-best").exists()


async def test_the_whole_journal_stays_when_asked_for(world: Callable[..., World]) -> None:
    for journal in ("needed", "all"):
        made = world(steps=6)
        made.folder = made.bench.folder = made.folder / journal
        made.folder.mkdir()
        save = Save(every=Steps(1), keep=1, journal=journal)  # type: ignore[arg-type]
        made.schedule = Schedule(until=Until(steps=6), save=save)
        await made.begin()
        await to_the_end(made, Outside(made))
        segments = sorted(int(p.stem) for p in (made.folder / "journal").glob("*.log"))
        names = sorted(p.name for p in (made.folder / "checkpoints").iterdir())
        await made.trainer.stop()
        if journal == "all":
            assert segments[0] == 1
            assert names == ["step_000000", "step_000006"]
        else:
            assert segments[0] > 1
            assert names == ["step_000006"]


async def test_a_checkpoint_is_written_when_the_last_one_is_old(
    world: Callable[..., World],
) -> None:
    made = world(steps=7)
    clock = made.bench.world.clock
    save = Save(every=Steps(100), time=Seconds(25), keep=9)
    made.schedule = Schedule(until=Until(steps=7), save=save)
    steady = clock.now

    def ten_seconds_a_version() -> float:
        return float(steady()) + 10.0 * len(made.numbers)

    clock.now = ten_seconds_a_version
    await made.begin()
    await to_the_end(made, Outside(made))
    steps = [step for step, _ in Checkpoints(made.folder / "checkpoints", keep=9).all()]
    assert steps == [0, 2, 5, 7], steps  # after 30 s (version 0 takes ten as well), 60 s, the end
