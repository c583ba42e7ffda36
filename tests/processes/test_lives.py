"""A run's lives in real processes: resumed with changed keys, replayed, forked, exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_rl
from click.testing import CliRunner, Result
from real_run import RealRun

from realnet.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SAVE = {"every": "2 steps", "keep": 2, "journal": "all", "export": "none"}
TOPOLOGY = small_rl.topology(
    {
        "run": {"until": {"steps": 3}, "eval": "3 steps", "save": SAVE},
        "policy": {"context": 40, "max_tokens": 12, "batch": 4, "group": 4},
        "tasks.addz": {"reward": {"mine.py:digits": 1.0}},
        "tasks.held": {"limit": 4},
        "roles.trainer": {"lr": 1e-2},
    },
    title="lives",
)
REWARD = """
def digits(prompt, text, answer):
    return sum(c.isdigit() for c in text) / 12
"""


def realnet(runs: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--runs", str(runs)], catch_exceptions=False)


def carried_out(topology: Path, runs: Path, *arguments: str) -> RealRun:
    runs.mkdir(exist_ok=True)
    run = RealRun(topology, runs, *arguments)
    try:
        assert run.wait() == 0, run.output()
    finally:
        run.end()
    return run


def test_a_run_goes_on_with_changed_keys_and_replays_to_the_same_bits(tmp_path: Path) -> None:
    topology = tmp_path / "lives.toml"
    topology.write_text(TOPOLOGY)
    (tmp_path / "mine.py").write_text(REWARD)
    runs = tmp_path / "runs"
    carried_out(topology, runs)
    refused = RealRun(topology, runs, "--resume", "--set", "policy.group=8")
    assert refused.wait() == 2
    assert "run cannot be resumed with this: policy.group = 8, was 4" in refused.output()
    more = ("--set", "run.until.steps=5", "--set", "roles.trainer.lr=2e-3")
    again = carried_out(topology, runs, "--resume", *more)
    told = {row["changed"]: row["after"] for row in again.rows("events") if "changed" in row}
    assert told == {"run.until.steps": 5, "roles.trainer.lr": 2e-3}
    rates = {r["step"]: r["lr"] for r in again.rows() if "grad_norm" in r}
    assert rates == {1: 1e-2, 2: 1e-2, 3: 1e-2, 4: 2e-3, 5: 2e-3}

    replayed = realnet(runs, "replay", "run")
    assert replayed.exit_code == 0, replayed.output
    assert "steps 1 to 5, from checkpoint 0" in replayed.output
    for step in (4, 5):  # one life's, and the end's, across the change of keys
        assert f"step {step}: the same weights, bit for bit" in replayed.output
    assert "NOT the same" not in replayed.output
    other = realnet(runs, "replay", "run", "--set", "roles.trainer.lr=1e-3")
    assert other.exit_code == 0, other.output
    assert "bit for bit" not in other.output

    fork = carried_out(topology, tmp_path / "forks", "--from", f"{runs / 'run'}@4")
    assert "begins as policy v2.0 with the weights of run@4 (policy v1.4)" in fork.output()
    exported = realnet(runs, "export", "run@5", "--to", str(tmp_path / "hf"))
    assert exported.exit_code == 0, exported.output
    assert (tmp_path / "hf" / "model.safetensors").is_file()
