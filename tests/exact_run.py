"""A run at zero staleness, in which a token's importance ratio is 1 or something was lost.

A log-probability, a version or a place that got lost on the way would show as another ratio.
Called by the tests that kill an engine or a generator in the middle of its answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from real_run import RealRun

TOPOLOGIES = Path(__file__).parent.parent / "topologies"
TOPOLOGY = """
extends = "{extends}"

[run]
until = {{ steps = {steps} }}
eval = "100 steps"

[policy]
max_age = 0

[tasks.addz]
reward = {{ "reward.py:length" = 1.0 }}

[tasks.addz_test]
limit = 4

[tasks.addz_test_forced]
limit = 4

[roles.trainer]
warm_start = {{ steps = 20 }}
minibatches = 1   # a second one of a step meets weights that the first one moved
"""
# Something to learn from the first step on: the answers differ in length.
REWARD = "def length(prompt, text, answer):\n    return len(text) % 7 / 7\n"


def written(folder: Path, base: str, steps: int, more: str = "") -> Path:
    """Write the topology and its reward; `base` is one of topologies/."""
    path = folder / "run.toml"
    path.write_text(TOPOLOGY.format(extends=TOPOLOGIES / base, steps=steps) + more)
    (folder / "reward.py").write_text(REWARD)
    return path


def exact(run: RealRun, steps: int) -> list[dict[str, Any]]:
    """Assert that each step was taken on tokens of exactly the trainer's policy; return them."""
    rows = [r for r in run.rows() if r["actor"] == "trainer/0" and "ratio_mean" in r]
    assert {row["step"] for row in rows} == set(range(1, steps + 1))
    for row in rows:
        assert abs(row["ratio_mean"] - 1) < 1e-3, row
        assert abs(row["kl"]) < 1e-6, row
    return rows
