"""Samples: what is written of an answer, which are kept, and what `realnet samples` shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from realnet.errors import RunFolderError
from realnet.roles.messages import (
    Group,
    Rollout,
    SampleKey,
    Scored,
    Segment,
    Span,
    TicketKey,
    Version,
)
from realnet.roles.samples import EVAL_FILE, MAX_TOKENS, TRAIN_FILE, sample_row, write_rows
from realnet.roles.trainer.reading import Reading, chosen
from realnet.roles.verbs.lines import choose, read_samples, tokens
from realnet.roles.verbs.samples import verb
from realnet.topology.plan import Plan, write_plan

OLD, NEW = Version("policy", 1, 6), Version("policy", 1, 7)
POLICY = {"model": "new:llama", "tokenizer": "new:chars"}


def scored(ticket: int, reward: float | None, text: str = "42", num_tokens: int = 5) -> Scored:
    """A prompt of three tokens, and an answer whose last two tokens are by a newer version."""
    prompt = np.arange(3, dtype=np.int32)
    ids = np.arange(4, 4 + num_tokens, dtype=np.int32) % 40
    spans = (Span(OLD, num_tokens - 2), Span(NEW, 2))
    logprobs = -np.arange(num_tokens, dtype=np.float32) / 8
    segments = (
        Segment("prompt", prompt, np.zeros(0, np.float32)),
        Segment("model", ids, logprobs, spans, learn=True),
    )
    key = SampleKey(TicketKey("policy", ticket), 0)
    rollout = Rollout(key, "t", f"question {ticket}", text, "42", segments, "stop")
    return Scored(rollout, reward, {} if reward is None else {"exact": reward}, "it hung")


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_plan(
        Plan("r", "r", "", str(folder), {}, (), (), (), {"policy": {"policy": POLICY}}, {}), folder
    )
    reading = Reading(folder, 4, lambda rows: [np.full(len(w), -0.5, np.float32) for _, w in rows])
    for step, version in ((7, OLD), (8, NEW)):
        groups = [Group(TicketKey("policy", k), (scored(k, k / 4),)) for k in range(step, step + 5)]
        reading.write(groups, version)
        row = {**sample_row(scored(0, 1.0)), "task": "t_test", "problem": 0, "source": "row 0"}
        write_rows(folder / EVAL_FILE, step, version, [row])
    return folder


def test_a_row_holds_tokens_versions_and_both_opinions() -> None:
    row = sample_row(scored(3, 1.0), np.full(5, -0.25, np.float32))
    assert row["tokens"] == [4, 5, 6, 7, 8]
    assert row["logprobs"] == [0.0, -0.125, -0.25, -0.375, -0.5]
    assert row["trainer_logprobs"] == [-0.25] * 5
    assert row["versions"] == [(1, 6, 3), (1, 7, 2)]
    assert json.loads(json.dumps(row))["reward"] == 1.0
    long = sample_row(scored(3, 1.0, num_tokens=MAX_TOKENS + 10))
    assert (len(long["tokens"]), long["num_tokens"]) == (MAX_TOKENS, MAX_TOKENS + 10)


def test_each_token_knows_its_writer_and_its_gap() -> None:
    row = json.loads(json.dumps(sample_row(scored(3, 1.0), np.full(5, -0.25, np.float32))))
    found = tokens(row)
    assert [token.version for token in found] == ["v1.6"] * 3 + ["v1.7"] * 2
    assert [token.gap for token in found] == [-0.25, -0.125, 0.0, 0.125, 0.25]
    assert [token.gap for token in tokens({**row, "trainer_logprobs": None})] == [None] * 5


def test_what_is_kept_goes_from_the_lowest_reward_to_the_highest() -> None:
    answers = [scored(k, k / 10) for k in (3, 9, 0, 5, 7)] + [scored(99, None)]
    assert [s.reward for s in chosen(answers, 3)] == [0.0, 0.5, 0.9]
    assert [s.reward for s in chosen(answers, 1)] == [0.0]
    assert len(chosen(answers, 50)) == 5, "an answer without a reward teaches nobody"
    assert chosen(answers, 0) == []


def test_the_trainer_is_asked_about_the_tokens_that_a_model_wrote(tmp_path: Path) -> None:
    asked: list[Any] = []

    def score(rows: Any) -> list[Any]:
        asked.extend(rows)
        return [np.zeros(len(where), np.float32) for _, where in rows]

    Reading(tmp_path, 1, score).write([Group(TicketKey("policy", 0), (scored(0, 1.0),))], OLD)
    ((ids, where),) = asked
    assert ids.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert where.tolist() == [3, 4, 5, 6, 7]
    (line,) = (tmp_path / TRAIN_FILE).read_text().splitlines()
    assert json.loads(line)["step"] == 7, "the step that begins with version 6"


def test_none_are_kept_and_nothing_is_computed_when_none_are_wanted(tmp_path: Path) -> None:
    def never(rows: Any) -> list[Any]:
        raise AssertionError("a pass for nobody")

    Reading(tmp_path, 0, never).write([Group(TicketKey("policy", 0), (scored(0, 1.0),))], OLD)
    assert not (tmp_path / TRAIN_FILE).exists()


def test_a_step_that_was_taken_again_is_shown_once(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "r")
    before = len(read_samples(folder, ["policy"]))
    with (folder / TRAIN_FILE).open("a") as file:
        file.write((folder / TRAIN_FILE).read_text())
        file.write('{"step": 8, "task": "t", "tick')  # the line that is being written
    assert len(read_samples(folder, ["policy"])) == before


def test_lines_are_chosen_by_step_task_kind_and_reward(tmp_path: Path) -> None:
    lines = read_samples(a_run(tmp_path / "r"), ["policy"])
    newest = choose(lines, step=None, task="", order="", kind="")
    assert {line["step"] for line in newest} == {8}
    lowest = choose(lines, step=7, task="t", order="lowest", kind="train")
    rewards = [line["reward"] for line in lowest]
    assert rewards == sorted(rewards)
    highest = choose(lines, step=7, task="t", order="highest", kind="")
    assert [line["reward"] for line in highest] == rewards[::-1]
    assert {line["task"] for line in choose(lines, step=8, task="", order="", kind="eval")} == {
        "t_test"
    }
    with pytest.raises(RunFolderError, match=r"no samples of step 40. Steps near it .*: 7, 8"):
        choose(lines, step=40, task="", order="", kind="")
    with pytest.raises(RunFolderError, match=r'no samples of task .* Did you mean "t_test"'):
        choose(lines, step=None, task="t_tets", order="", kind="")


def test_greedy_answers_are_told_apart(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "runs" / "demo")
    read = read_samples(folder, ["policy"])
    with pytest.raises(RunFolderError, match="no greedy answers"):
        choose(read, step=8, task="", order="", kind="eval", decoding="greedy")
    row = {**sample_row(scored(0, 0.0, text="41")), "task": "t_test", "problem": 0}
    write_rows(folder / EVAL_FILE, 8, NEW, [{**row, "decoding": "greedy"}])
    read = read_samples(folder, ["policy"])
    texts = {
        way: [r["text"] for r in choose(read, step=8, task="", order="", kind="eval", decoding=way)]
        for way in ("", "greedy", "sampled")
    }
    assert texts == {"": ["42", "41"], "greedy": ["41"], "sampled": ["42"]}
    said = CliRunner().invoke(verb, ["demo", "--greedy", "--runs", str(tmp_path / "runs")])
    assert "held out, greedy" in said.output
    assert "sampled" not in said.output


def test_an_answer_without_a_reward_is_the_lowest(tmp_path: Path) -> None:
    lines = [
        {**sample_row(scored(k, r)), "step": 1, "trained": True} for k, r in ((0, 0.0), (1, None))
    ]
    for order, expected in (("lowest", [None, 0.0]), ("highest", [0.0, None])):
        found = choose(lines, step=1, task="", order=order, kind="")
        assert [line["reward"] for line in found] == expected


def test_the_command_shows_an_answer_and_its_tokens(tmp_path: Path) -> None:
    a_run(tmp_path / "r")
    arguments = ["r", "--runs", str(tmp_path), "--train", "--highest", "--limit", "1", "--tokens"]
    result = CliRunner().invoke(verb, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for expected in (
        "t · step 8 · trained on · ticket 12",
        "question 12",
        "reward 3 (exact 3)",
        "written by v1.6 x3, v1.7 x2",
        "mean size 0.2500, largest -0.5000 at token 0",
        "3 more of step 8",
        "1 v1.6 -0.1250 -0.5000 -0.3750",  # token 5 is the character "1"
    ):
        assert expected in text, result.output


def test_a_run_without_samples_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there are no samples yet"):
        read_samples(tmp_path, ["policy"])
