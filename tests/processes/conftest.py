"""Real runs in tmp_path, nothing left of them, and a small network to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_run import RealRun
from small_net import topology as small_net

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give real processes time: a machine that others use as well may start them slowly."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))


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


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """The small network that is not RL, with work that never ends; `FLOOD`: and never rests."""
    path = tmp_path / "net.toml"
    path.write_text(small_net(tmp_path, num=100_000_000, workers=2, per_s=1000))
    return path
