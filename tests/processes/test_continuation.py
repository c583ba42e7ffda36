"""A generator is killed: its answers go on elsewhere; its tokens are still of their versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from exact_run import exact, written
from real_run import RealRun

DRIVER_APART = """
[roles.driver]
place = ""   # in a process of its own: it holds what a generator wrote when that one dies

[roles.generator]
count = 2
engine = { kind = "torch", slots = 4 }  # few: a batch takes them long enough to be hit in it
"""


@pytest.mark.timeout(240)
def test_a_dead_generators_tokens_are_trained_on_as_what_they_are(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    run = start(written(tmp_path, "demo.toml", 12, DRIVER_APART))
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
    exact(run, 12)
    assert max(r["canary"] for r in run.rows() if "canary" in r) < 1e-4
