"""The `start` fixture: real runs in tmp_path, and nothing left of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_run import RealRun


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RealRun]]:
    """Start runs in tmp_path; whatever is left at the end is killed, and then it is an error."""
    runs: list[RealRun] = []

    def begin(topology: Path, *arguments: str, cwd: Path | None = None) -> RealRun:
        run = RealRun(topology, tmp_path, *arguments, cwd=cwd)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.end()
    left = {slot: pid for run in runs for slot, pid in run.members().items()}
    assert not left, f"processes left behind: {left}"
