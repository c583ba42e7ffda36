"""Answers that go on elsewhere: a generator is killed, and its tokens are still of their versions.

At zero staleness a token whose log-probability, version or place was lost on the way would show as
an importance ratio other than 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from real_run import RealRun

ROOT = Path(__file__).parent.parent.parent
TOPOLOGY = f"""
extends = "{ROOT}/topologies/demo.toml"

[run]
until = {{ steps = 12 }}
eval = "100 steps"

[policy]
max_age = 0

[tasks.addz]
reward = {{ "reward.py:length" = 1.0 }}

[tasks.addz_test]
limit = 4

[tasks.addz_test_forced]
limit = 4

[roles.driver]
place = ""   # in a process of its own: it holds what a generator wrote when that one dies

[roles.generator]
count = 2

[roles.trainer]
warm_start = {{ steps = 20 }}
minibatches = 1   # a second one of a step meets weights that the first one moved
"""


@pytest.mark.timeout(240)
def test_a_dead_generators_tokens_are_trained_on_as_what_they_are(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TOPOLOGY)
    (tmp_path / "reward.py").write_text(
        "def length(prompt, text, answer):\n    return len(text) % 7 / 7\n"
    )
    run = start(path)
    run.until(lambda: run.step() >= 2)

    def continued() -> float:
        return max((row["continued"] for row in run.rows() if "continued" in row), default=0)

    def killed_in_mid_batch(slot: str) -> bool:
        """Kill it; between two batches it wrote nothing, and the next step is there without it."""
        step, before = run.step(), continued()
        run.until(lambda: slot in run.members())
        run.kill(slot)
        run.until(lambda: continued() > before or run.step() > step + 1)
        return continued() > before

    for slot in ("generator/0", "generator/1"):
        assert any(killed_in_mid_batch(slot) for _ in range(3)), run.output()
    assert run.wait() == 0, run.output()
    rows = [r for r in run.rows() if r["actor"] == "trainer/0" and "ratio_mean" in r]
    assert {row["step"] for row in rows} == set(range(1, 13))
    for row in rows:
        assert abs(row["ratio_mean"] - 1) < 1e-3, row
        assert row["kl"] < 1e-6, row
    assert max(r["canary"] for r in run.rows() if "canary" in r) < 1e-4
