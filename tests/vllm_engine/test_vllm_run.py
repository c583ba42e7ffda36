"""A whole run on vLLM: at zero staleness in fp32 its tokens are exactly the trainer's.

The engine's process is killed in the middle: what was written goes on, in the generator's next
life, and the importance ratios stay 1.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from exact_run import exact, written
from real_run import RealRun


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RealRun]:
    path = written(tmp_path, "cpu_vllm.toml", 6)
    made = RealRun(path, tmp_path)
    yield made
    made.end()
    assert not made.members()


def engines(pid: int) -> list[int]:
    """The processes of vLLM below one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in (int(word) for word in task.read_text().split()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


@pytest.mark.timeout(500)
def test_a_run_on_vllm_is_exactly_on_policy_also_when_its_engine_is_killed(run: RealRun) -> None:
    run.until(lambda: run.step() >= 2, budget_s=200)
    (engine, *_) = engines(run.members()["generator/0"])
    os.kill(engine, signal.SIGKILL)
    run.until(lambda: any("generator/0 is started again" in e for e in run.events()))
    assert run.wait(250) == 0, run.output()
    exact(run, 6)
    assert any("vLLM's process EngineCore" in event for event in run.events())
    assert not any("has not answered" in event for event in run.events())  # it ended by itself
