"""docs/custom.md: its code is the code of examples/, its commands run, and what it says is so."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT, run_commands, section, write_files
from real_run import RealRun

from realnet.roles.journal import Journal
from realnet.roles.messages import Scored, TicketKey
from realnet.roles.trainer.records import unpack

WALK = section("custom.md", "A judge and a filter")
TWO = section("custom.md", "Two policies")
AGENT = section("custom.md", "An agent with a tool")


EXAMPLES = {
    "walk": "A judge and a filter",
    "calculator": "An agent with a tool",
    "two": "Two policies",
}


def example(name: str, folder: Path) -> Path:
    """Write down, where nothing else is, what the page shows."""
    write_files("custom.md", EXAMPLES[name], folder / name)
    return folder / name


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_shows_every_file_of_the_examples_whole(name: str, tmp_path: Path) -> None:
    there = ROOT / "examples" / name
    shown = {p.name: p.read_text() for p in example(name, tmp_path).iterdir()}
    assert shown == {p.name: p.read_text() for p in there.iterdir() if p.is_file()}


def test_a_role_has_thirty_lines() -> None:
    for name in ("walk/judge.py", "walk/filter.py", "calculator/calculator.py", "two/asker.py"):
        lines = (ROOT / "examples" / name).read_text().splitlines()
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


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.long
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


# ---------------------------------------------------------------- two policies


def two(tmp_path: Path) -> Path:
    """Write the example down, with the one beside it that it builds on."""
    example("calculator", tmp_path)
    return example("two", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.long
def test_both_policies_learn(tmp_path: Path) -> None:
    folder = two(tmp_path)
    wrong = ("judge_driver.policy=false", "jduge")
    count = run_commands(
        TWO, folder, wrong=lambda line: any(w in line for w in wrong), timeout_s=300
    )
    assert count == 4
    run = folder / "runs" / "two"
    for trainer, rise in (("trainer/0", 0.3), ("judge_trainer/0", 0.05)):
        rows = [r for r in metrics(run) if r["actor"] == trainer and "grad_norm" in r]
        rewards = [r["reward"] for r in rows]
        tenth = max(3, len(rewards) // 10)
        gain = sum(rewards[-tenth:]) / tenth - sum(rewards[:tenth]) / tenth
        assert gain > rise, (trainer, rewards)
    page = (run / "report.html").read_text()
    assert "Also trained: judge: " in page
    assert "sums_test" in page


SHORT = [
    word
    for value in (
        "run.until.steps=24",
        'run.save.every="4 steps"',
        'run.hung="5min"',  # a frozen process is left alone
        "roles.trainer.warm_start.steps=20",
        "roles.judge_trainer.warm_start.steps=10",
        "tasks.sums_test.limit=8",
    )
    for word in ("--set", value)
]


def step_of(run: RealRun, trainer: str) -> int:
    return max((r["step"] for r in run.rows() if r["actor"] == trainer and "loss" in r), default=0)


def balanced(run: RealRun, policy: str) -> dict[str, int]:
    counts: dict[str, int] = json.loads((run.folder / policy / "ledger.json").read_text())["counts"]
    assert counts["issued"] == sum(n for state, n in counts.items() if state != "issued")
    return counts


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.long
def test_a_frozen_judge_does_not_hold_the_solver_up(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    run = start(two(tmp_path) / "two.toml", *SHORT)
    run.until(lambda: step_of(run, "judge_trainer/0") >= 2)
    frozen = [
        run.kill(f"{role}/0", signal.SIGSTOP) for role in ("judge_generator", "judge_trainer")
    ]
    at, judged = step_of(run, "trainer/0"), step_of(run, "judge_trainer/0")
    run.until(lambda: step_of(run, "trainer/0") >= min(at + 10, 22))
    assert step_of(run, "judge_trainer/0") <= judged + 1  # a row may have been on its way
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert run.wait() == 0, run.output()
    assert balanced(run, "solver")["trained"] == 24 * 16
    balanced(run, "judge")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.long
def test_two_policies_through_deaths_and_a_resume(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    topology = two(tmp_path) / "two.toml"
    run = start(topology, *SHORT, "--set", "run.until.steps=5000")  # it is interrupted
    for role in ("asker", "judge_trainer", "judge_generator", "trainer"):
        at = step_of(run, "judge_trainer/0")
        run.until(lambda at=at: step_of(run, "judge_trainer/0") > at)  # type: ignore[misc]
        run.kill(f"{role}/0")
        run.until(lambda role=role: any(f"{role}/0 is started again" in e for e in run.events()))  # type: ignore[misc]
    run.until(
        lambda: any(e.startswith("trainer/0 was restarted and resumed") for e in run.events())
    )
    at = step_of(run, "judge_trainer/0")
    run.until(lambda: step_of(run, "judge_trainer/0") > at)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130, run.output()
    before = {p: balanced(run, p)["trained"] for p in ("solver", "judge")}
    last = before["solver"] // 16 + 30
    again = start(topology, *SHORT, "--set", f"run.until.steps={last}", "--resume")
    assert again.wait() == 0, again.output()
    assert balanced(again, "solver")["trained"] == last * 16
    assert balanced(again, "judge")["trained"] > before["judge"]
    steps = {r["step"] for r in again.rows() if r["actor"] == "trainer/0" and "loss" in r}
    assert steps == set(range(1, last + 1))  # none skipped
    parents = {key.parent for key in derived(again.folder / "judge" / "journal")}
    assert parents
    assert all(parent.startswith("solver/") and "#" in parent for parent in parents)


def derived(journal: Path) -> list[TicketKey]:
    """Return the tickets of the answers in a trainer's journal."""
    read = Journal(journal, notice=print)
    read.open()
    found = [unpack(e.kind, e.body, "test") for e in read.replay()]
    read.close()
    return [r.rollout.key.ticket for r in found if isinstance(r, Scored)]
