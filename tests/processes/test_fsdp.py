"""A gang that trains in real processes: one rank is killed, and only the gang begins anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exact_run import exact
from real_run import RealRun

DEMO = Path(__file__).parent.parent.parent / "topologies" / "demo.toml"
TOPOLOGY = f"""
extends = "{DEMO}"
[run]
until = {{ steps = 16 }}
save = {{ every = "3 steps", keep = 2, export = "hf" }}
suspect = "5s"
hung = "20s"
[policy]
batch = 8
group = 4
[tasks.addz]
reward = {{ "rewards.py:parity" = 1.0 }}
[tasks]
addz_test = false
addz_test_forced = false
[wires]
eval = false
judge = false
[roles]
evaluator = false
[roles.trainer]
ranks = 2
backend = "fsdp"
micro_tokens = 512
warm_start = {{ steps = 5 }}
"""
REWARD = '''
def parity(prompt, response, answer, **more):
    """Some answers are good and some are not, whatever the policy knows."""
    return float(len(response) % 2)
'''


def gang(run: RealRun) -> dict[str, int]:
    return {slot: pid for slot, pid in run.members().items() if slot.startswith("trainer/")}


@pytest.mark.timeout(300)
def test_a_killed_rank_brings_the_gang_back_from_its_checkpoint_and_nobody_else(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "fsdp.toml").write_text(TOPOLOGY)
    run = start(tmp_path / "fsdp.toml")
    run.until(lambda: run.step() >= 5, 120)
    before, trainers = run.members(), gang(run)
    assert set(trainers) == {"trainer/0", "trainer/0.1"}
    run.kill("trainer/0.1")
    run.until(lambda: any("resumed at step" in e for e in run.events()), 120)
    after = run.members()
    assert not set(trainers.values()) & set(gang(run).values()), "both ranks are new processes"
    assert {s: p for s, p in after.items() if s not in trainers} == {
        s: p for s, p in before.items() if s not in trainers
    }, "generators and all others were left alone"
    assert run.wait(120) == 0, run.output()
    assert any("trainer/0.1 died: killed by SIGKILL" in e for e in run.events())
    book = json.loads((run.folder / "ledger.json").read_text())
    assert book["steps"] == 16
    assert book["counts"]["trained"] == 16 * 8
    assert book["counts"]["dropped"] == book["counts"]["set_aside"] == 0
    rows = [r for r in run.rows() if r["actor"] == "trainer/0" and "grad_norm" in r]
    assert max(r["grad_norm"] for r in rows) > 0.0
    newest = run.folder / "checkpoints" / "step_000016" / "learner"
    assert len(list(newest.glob("shard-*.safetensors"))) == 2
    assert (run.folder / "export" / "model.safetensors").is_file()


LEARNS = f"""
extends = "{DEMO}"
[run]
until = {{ steps = 24 }}
eval  = "12 steps"
save  = {{ every = "24 steps", keep = 1 }}
[policy]
max_age = 0
[tasks]
addz_test_forced = false
[roles.trainer]
ranks = 2
backend = "fsdp"
minibatches = 1   # a second one of a step meets weights that the first one moved
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_gang_learns_and_at_zero_staleness_its_ratios_are_one(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    """Two ranks over gloo, in fp32: what one process learns in so many steps, and exactly."""
    (tmp_path / "learns.toml").write_text(LEARNS)
    run = start(tmp_path / "learns.toml")
    assert run.wait(850) == 0, run.output()
    scores = [r["eval/addz_test/pass@1"] for r in run.rows() if "eval/addz_test/pass@1" in r]
    print(scores)
    assert scores[0] < 0.35
    assert scores[-1] > 0.6  # one evaluation has a standard error of 0.03
    exact(run, 24)
    proved = [r["canary"] for r in run.rows() if "canary" in r]
    assert proved
    assert max(proved) < 1e-4
