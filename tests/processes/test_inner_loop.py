"""After a real run: its samples are read, its checkpoints are talked to and tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from real_run import RealRun

from realnet.roles.verbs import chat, samples, trying

DEMO = Path(__file__).parent.parent.parent / "topologies" / "demo.toml"
VALUES = (
    "run.until.steps=4",
    'run.eval="2 steps"',
    'run.save.every="2 steps"',
    "roles.trainer.warm_start.steps=30",
    "tasks.addz_test.limit=8",
    "tasks.addz_test_forced.limit=8",
    "policy.batch=8",
)


@pytest.mark.timeout(240)
def test_samples_chat_and_try_on_a_run(start: Callable[..., RealRun], tmp_path: Path) -> None:
    run = start(DEMO, *(word for value in VALUES for word in ("--set", value)))
    assert run.wait(200) == 0, run.output()
    where = ("--runs", str(tmp_path))

    rows = run.rows("samples.train")
    assert {row["step"] for row in rows} == {1, 2, 3, 4}
    assert all(len(row["trainer_logprobs"]) == row["num_tokens"] for row in rows)
    fresh = [row for row in rows if {span[1] for span in row["versions"]} == {row["step"] - 1}]
    gaps = [
        abs(own - sent)
        for row in fresh
        for own, sent in zip(row["trainer_logprobs"], row["logprobs"], strict=True)
    ]
    assert gaps, "some answers were written by the version that the step began with"
    assert max(gaps) < 1e-3, "then trainer and generator compute the same"

    shown = CliRunner().invoke(samples.verb, ["run", *where, "--train", "--lowest", "--tokens"])
    assert shown.exit_code == 0, shown.output
    assert "trainer - generator log-probability: mean size" in " ".join(shown.output.split())
    assert "<eos>" in shown.output or "cut at its longest" in shown.output

    problem = json.loads((run.folder / "samples.jsonl").read_text().splitlines()[-1])
    said = ["run@2", *where, "--temperature", "0", "--say", problem["prompt"]]
    first, again = (CliRunner().invoke(chat.verb, said) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.output.strip()
    assert first.output == again.output

    tried = CliRunner().invoke(
        trying.verb, [str(DEMO), *where, "--from", "run@2", "--prompts", "2", "--answers", "3"]
    )
    assert tried.exit_code == 0, tried.output
    assert "model: run@2" in tried.output
    assert "(2 prompts, 3 answers each)" in tried.output
