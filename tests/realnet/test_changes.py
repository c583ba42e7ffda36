"""What may change in a run that goes on, and what is refused by name, with reason and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_rl import topology

from realnet.errors import ConfigError
from realnet.topology import Plan, read_source, resolve
from realnet.topology.changes import Changes, compare, refuse
from realnet.topology.plan import read_plan, write_plan

TOPOLOGY = topology(
    {"policy": {"group": 4}, "tasks.held": {"limit": 4}, "roles.trainer": {"lr": 1e-3}}
)


def plan(folder: Path, *overrides: str, more: str = "") -> Plan:
    path = folder / "small.toml"
    path.write_text(TOPOLOGY + more)
    return resolve(read_source(path, overrides), "run-1")


def changed(folder: Path, *overrides: str, more: str = "") -> Changes:
    return compare(plan(folder), plan(folder, *overrides, more=more))


def test_the_same_topology_changes_nothing(tmp_path: Path) -> None:
    assert changed(tmp_path) == Changes([], [])
    write_plan(plan(tmp_path), tmp_path)
    assert compare(read_plan(tmp_path), plan(tmp_path)) == Changes([], [])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("run.until.steps=9", "run.until.steps"),
        ('run.eval="2 steps"', "run.eval"),
        ("run.save.keep=5", "run.save.keep"),
        ("roles.trainer.lr=5e-4", "roles.trainer.lr"),
        ("roles.trainer.loss.clip=[0.1, 0.3]", "roles.trainer.loss.clip"),
        ("roles.generator.count=2", "roles.generator.count"),
        ("policy.max_age=3", "policy.max_age"),
        ("policy.batch=16", "policy.batch"),
        ("tasks.addz.reward={ exact = 2.0 }", "tasks.addz.reward"),
        ("tasks.held.limit=9", "tasks.held.limit"),
        ("run.grace=9", "run.grace"),
    ],
)
def test_what_may_change_is_taken_and_told(tmp_path: Path, override: str, key: str) -> None:
    found = changed(tmp_path, override)
    assert not found.refused
    assert key in [change.key for change in found.taken]
    told = next(str(change) for change in found.taken if change.key == key)
    assert " = " in told
    assert ", was " in told


@pytest.mark.parametrize(
    ("override", "key", "why"),
    [
        ("policy.shape={ hidden_size = 32 }", "policy.shape", "weights have that shape"),
        ('policy.tokenizer="new:bytes"', "policy.tokenizer", "token ids"),
        ('policy.model="new:qwen2"', "policy.model", "weights are of that model"),
        ('policy.dtype="bf16"', "policy.dtype", "moments"),
        ("policy.group=8", "policy.group", "so many answers"),
        ("policy.seed=1", "policy.seed", "random state"),
        ("tasks.addz.seed=1", "tasks.addz.seed", "which problem"),
        ("tasks.addz.limit=100", "tasks.addz.limit", "which problem"),
        ('tasks.addz.use="eval"', "tasks.addz.use", "which problem"),
        ('roles.trainer.reference="start"', "roles.trainer.reference", "was not kept"),
    ],
)
def test_what_cannot_change_is_refused_by_name_with_reason_and_remedy(
    tmp_path: Path, override: str, key: str, why: str
) -> None:
    # the new value must stand by itself: a prompter needs a task, a KL a reference
    also = {"tasks.addz.use": "[tasks.other]\\nlike = 'held'\\nuse = 'train'\\n"}.get(key, "")
    kl = 'roles.trainer.loss={ kl = "loss", kl_beta = 0.1 }'
    overrides = (override, kl) if "reference" in key else (override,)
    found = changed(tmp_path, *overrides, more=also.replace("\\n", "\n"))
    text = next(t for t in found.refused if t.startswith(key))
    assert why in text
    with pytest.raises(ConfigError, match=r"run-1 cannot be resumed with this: .*") as error:
        refuse(found, "run-1", "small.toml")
    assert "realnet run small.toml --from run-1" in str(error.value)


def test_what_a_fork_cannot_change_either_says_so(tmp_path: Path) -> None:
    (shape,) = changed(tmp_path, "policy.shape={ hidden_size = 32 }").refused
    assert "A fork cannot change it either: begin a new run" in shape
    (group,) = changed(tmp_path, "policy.group=8").refused
    assert "fork" not in group


def test_another_training_task_is_refused_and_another_measured_one_is_not(tmp_path: Path) -> None:
    trained = changed(tmp_path, more='[tasks.more]\nlike = "addz"\n')
    assert trained.refused[0].startswith("[tasks.more] is new, but the order of problems")
    measured = changed(tmp_path, more='[tasks.more]\nlike = "held"\n')
    assert not measured.refused
    assert [c.key for c in measured.taken] == ["tasks.more"]


def test_a_policy_of_another_name_is_refused(tmp_path: Path) -> None:
    other = TOPOLOGY.replace("[policy]", "[policies.math]")
    path = tmp_path / "small.toml"
    path.write_text(other)
    named = resolve(read_source(path, ()), "run-1")
    found = compare(plan(tmp_path), named)
    assert "is not there any more, but ledger, journal and checkpoints" in found.refused[0]


def test_what_is_past_is_taken_and_told_to_have_no_effect(tmp_path: Path) -> None:
    found = changed(tmp_path, "roles.trainer.warm_start={ steps = 9 }")
    assert not found.refused
    (text,) = [str(c) for c in found.taken]
    assert text == (
        "roles.trainer.warm_start.steps = 9, was 0 (no effect: the run is past its warm start)"
    )


def test_a_run_of_another_topology_is_refused(tmp_path: Path) -> None:
    found = changed(tmp_path, 'title="other"')
    assert found.refused == [
        'title = "other": the run is of the topology "small". Name the run to go on with (--name), '
        "or fork it: --from"
    ]


def test_a_project_that_was_moved_is_the_same(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "sums.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    data = 'tasks.addz.data="./data/sums.jsonl"'
    held = 'tasks.held.data="new:addz"'
    assert compare(plan(there, data, held), plan(here, data, held)) == Changes([], [])


def test_a_role_that_came_or_went_is_told(tmp_path: Path) -> None:
    found = compare(plan(tmp_path), plan(tmp_path, "roles.evaluator=false", "wires.eval=false",
                                         "wires.judge=false"))  # fmt: skip
    assert not found.refused
    assert 'roles.evaluator = not set, was "there"' in [str(c) for c in found.taken]
