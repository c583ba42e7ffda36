"""docs/custom.md: its code is the code of examples/, its commands run, and what it says is so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import ROOT, check_code, run_commands, section

WALK = section("custom.md", "A judge and a filter")


def example(name: str, folder: Path) -> Path:
    """Copy an example to where nothing else is, as somebody else would have it."""
    return Path(shutil.copytree(ROOT / "examples" / name, folder / name))


def test_the_code_of_the_walk_is_the_code() -> None:
    files = [f"examples/walk/{name}" for name in ("judge.py", "filter.py", "walk.toml")]
    assert check_code(WALK, files) == 4
    for name in files[:2]:  # "a role in 30 lines"
        lines = (ROOT / name).read_text().splitlines()
        assert sum(bool(line.strip()) for line in lines) <= 30, name


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_of_the_walk_run(tmp_path: Path) -> None:
    folder = example("walk", tmp_path)
    count = run_commands(
        WALK,
        folder,
        wrong=lambda line: "wroth" in line or "driver -> filter" in line,
        timeout_s=150,
    )
    assert count == 8
    run = folder / "runs" / "first"
    books = json.loads((run / "ledger.json").read_text())
    assert books["counts"]["trained"] == 64
    assert books["counts"]["set_aside"] > 0
    assert list(books["reasons"]["set_aside"]) == ["fewer than 4 digits"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "grad_norm" in row]
    assert any(0 < reward < 0.1 for reward in rewards)  # which only the judge gives
