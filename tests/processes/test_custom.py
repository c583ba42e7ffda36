"""docs/custom.md: its code is the code of examples/, its commands run, and what it says is so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import ROOT, check_code, run_commands, section

WALK = section("custom.md", "A judge and a filter")
AGENT = section("custom.md", "An agent with a tool")


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


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_code_of_the_agent_is_the_code() -> None:
    names = ("calculator.py", "sums.py", "calculator.toml", "apart.toml")
    assert check_code(AGENT, [f"examples/calculator/{name}" for name in names]) == 5


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_agent_learns_to_use_its_tool(tmp_path: Path) -> None:
    folder = example("calculator", tmp_path)
    assert run_commands(AGENT, folder, timeout_s=300) == 3
    rows = metrics(folder / "runs" / "calculator")
    shares = [r["eval/sums_test/pass@1"] for r in rows if "eval/sums_test/pass@1" in r]
    assert shares[0] < 0.4  # mostly it makes its answers up
    assert shares[-1] > 0.7  # a standard error is 0.06
    rewards = [r["reward"] for r in rows if "grad_norm" in r]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:2]) / 2 + 0.2
    texts = [
        json.loads(line)
        for line in (folder / "runs" / "calculator" / "samples.jsonl").read_text().splitlines()
    ]
    last = [t["text"] for t in texts if t["step"] == 40]
    assert any(text.startswith("(") and text.count(":") == 2 for text in last)  # it is by the tool
