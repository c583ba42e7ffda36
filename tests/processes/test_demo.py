"""The demo in real processes: kills of every role, interrupt and resume, and that it learns.

The short runs warm up hardly at all: they are about what happens, not about how well it answers.
That it learns is for `make test-long`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_run import RealRun

ROOT = Path(__file__).parent.parent.parent
DEMO = ROOT / "topologies" / "demo.toml"
BATCH, STEPS = 16, 24
SHORT = [
    argument
    for value in (
        f"run.until.steps={STEPS}",
        'run.eval="12 steps"',
        'run.save.every="4 steps"',
        f"policy.batch={BATCH}",
        "policy.group=4",
        "roles.trainer.warm_start.steps=8",
        "tasks.addz_test.limit=8",
        "tasks.addz_test_forced.limit=8",
        'run.suspect="2s"',
        'run.hung="5s"',
    )
    for argument in ("--set", value)
]
Start = Callable[..., RealRun]
STATES = ("waiting", "leased", "buffered", "trained", "set_aside", "dropped")


def ledger(run: RealRun) -> dict[str, int]:
    found: dict[str, Any] = json.loads((run.folder / "ledger.json").read_text())
    counts: dict[str, int] = found.get("counts", found)
    assert counts["issued"] == sum(counts[s] for s in STATES)
    return counts


def trained_steps(run: RealRun) -> list[int]:
    return [r["step"] for r in run.rows() if r["actor"] == "trainer/0" and "loss" in r]


@pytest.mark.timeout(400)
def test_every_role_may_be_killed_while_it_runs(start: Start) -> None:
    run = start(DEMO, *SHORT)
    for at, role in ((2, "generator"), (5, "rewarder"), (8, "parameter_server"), (11, "trainer")):
        run.until(lambda at=at: run.step() >= at)  # type: ignore[misc]
        workers = run.workers() if role == "rewarder" else set()
        run.kill(f"{role}/0")
        run.until(
            lambda role=role: any(f"{role}/0 is started again" in e for e in run.events())  # type: ignore[misc]
        )
        if role == "rewarder":
            assert workers  # it had some, and they went with it
            run.until(lambda workers=workers: not run.alive(workers))  # type: ignore[misc]
    run.until(lambda: run.step() >= 14)
    workers = run.workers()
    assert workers
    run.kill("prompter/0")
    assert run.wait() == 0, run.output()
    counts = ledger(run)
    assert counts["trained"] == STEPS * BATCH
    assert counts["set_aside"] == counts["dropped"] == 0
    assert set(trained_steps(run)) == set(range(1, STEPS + 1))  # none skipped
    assert f"done: trained {STEPS} steps" in run.output()
    assert any("trainer/0 was restarted and resumed at step" in e for e in run.events())
    assert not run.members()
    assert not run.alive(workers)


@pytest.mark.timeout(500)
def test_a_run_goes_on_where_it_was_when_its_head_was_killed_and_when_interrupted(
    start: Start,
) -> None:
    run = start(DEMO, *SHORT)
    run.until(lambda: run.step() >= 5)
    sockets = Path((run.folder / ".sockets").read_text())
    run.process.kill()
    run.process.wait()
    run.end(sweep=False)
    assert not run.members()
    assert sockets.exists()

    again = start(DEMO, *SHORT, "--resume")
    again.until(lambda: not sockets.exists())
    again.until(lambda: again.step() >= 12)
    again.process.send_signal(signal.SIGINT)
    assert again.wait(40) == 130
    assert not again.members()
    before = trained_steps(again)
    assert set(before) == set(range(1, before[-1] + 1))  # none skipped
    ledger_line = [e for e in again.events() if "tickets issued" in e]
    assert ledger_line, again.events()

    last = start(DEMO, *SHORT, "--resume")
    assert last.wait() == 0, last.output()
    after = trained_steps(last)[len(before) :]
    assert after == list(range(before[-1] + 1, STEPS + 1))  # no step twice, none skipped
    assert ledger(last)["trained"] == STEPS * BATCH
    attempts = sorted(p.name for p in (last.folder / "attempts").iterdir())
    assert attempts == ["1", "2", "3", "latest"]

    over = start(DEMO, *SHORT, "--resume")  # nothing is left to train: it is measured once more
    assert over.wait() == 0, over.output()
    assert trained_steps(over)[len(before) :] == after
    measured = [r for r in over.rows() if "eval/addz_test/pass@1" in r][-1]
    assert (measured["step"], measured["attempt"]) == (STEPS, 4)


@pytest.mark.timeout(400)
def test_gsm8k_from_a_file_to_a_folder_that_transformers_loads(start: Start) -> None:
    real = os.environ.get("GSM8K_DIR")
    data: list[str] = []
    if real:
        data += ["--set", f'tasks.gsm8k.data="{real}/train.jsonl"']
        data += ["--set", f'tasks.gsm8k_test.data="{real}/test.jsonl"']
    run = start(ROOT / "topologies" / "gsm8k-smoke.toml", *data)
    assert run.wait() == 0, run.output()
    assert ledger(run)["trained"] == 8
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run.folder / "export")
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "export")
    assert model.config.model_type == "qwen2"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+1?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert model(ids).logits.shape[-1] == model.config.vocab_size
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    assert "Put the final answer in" in samples[0]["prompt"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_learns(start: Start) -> None:
    """The demo as it is shipped, to its end."""
    run = start(DEMO)
    assert run.wait(580) == 0, run.output()
    scores = [r["eval/addz_test/pass@1"] for r in run.rows() if "eval/addz_test/pass@1" in r]
    print(scores)
    assert scores[0] < 0.35  # the warm start answers badly at T = 1
    assert scores[-1] >= 0.65  # one evaluation has a standard error of 0.03
    ledger(run)
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert "overlap" in run.output() or "both busy" in run.output()
    ages = [r for r in run.rows() if r["actor"] == "trainer/0" and "age_mean" in r]
    assert max(r["age_mean"] for r in ages) > 0  # it was asynchronous
