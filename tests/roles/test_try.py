"""`realnet try`: what it shows, what it refuses, and that nothing is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from realnet.observe.visible import visible
from realnet.roles.messages import Rollout, SampleKey, Scored, Segment, TicketKey
from realnet.roles.models.build import build_model, export_hf
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.verbs.trial import Asked, Trial
from realnet.roles.verbs.trying import verb

TOPOLOGY = """
extends = "rl"
title   = "small"
[policy]
model      = "new:llama"
tokenizer  = "new:bytes"
shape      = { hidden_size = 16, num_attention_heads = 2, num_key_value_heads = 2 }
context    = 96
max_tokens = 12
group      = 4
[tasks.t]
data   = "data.jsonl"
prompt = "Say {question}"
chat   = true
reward = { "mine.py:length" = 1.0, exact = 0.5 }
[wires]
eval  = false
judge = false
[roles]
evaluator = false
"""
REWARDS = """
def length(prompt, text, answer):
    return len(text) % 3

def broken(prompt, text, answer):
    raise KeyError("which")

def sometimes(prompt, text, answer):
    return 1.0 if "b" in prompt else 1 / 0
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "t.toml").write_text(TOPOLOGY)
    (tmp_path / "mine.py").write_text(REWARDS)
    rows = [{"question": name, "answer": "x"} for name in ("a", "b", "c")]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return tmp_path


def tried(base: Path, *words: str) -> Result:
    arguments = [str(base / "t.toml"), "--runs", str(base / "runs"), *words]
    return CliRunner().invoke(verb, arguments, env={"COLUMNS": "200"})


def output(result: Result) -> str:
    return " ".join(result.output.split())


# ---------------------------------------------------------------- what it shows


def test_prompts_answers_and_parts_are_shown(base: Path) -> None:
    result = tried(base)
    assert result.exit_code == 0, result.output
    text = output(result)
    assert "model: new:llama with random weights" in text
    assert "<|im_start|>user" in text, "the prompt is shown through the chat template"
    assert "Say a" in text
    assert "mine.py:length" in text
    assert "% of groups carry signal (3 prompts, 4 answers each)" in text
    assert not (base / "runs").exists(), "nothing is left behind"


def test_the_same_answers_come_again_and_greedy_ones_are_alike(base: Path) -> None:
    assert tried(base, "--show", "4").output == tried(base, "--show", "4").output
    greedy = output(tried(base, "--greedy"))
    assert "1 answers each" in greedy
    assert "--answers says how many to write" in greedy


def test_the_base_may_be_a_folder(base: Path) -> None:
    tokenizer = Tokenizer.new_bytes()
    policy = Policy(model="new:qwen2", tokenizer="new:bytes", context=96)
    export_hf(build_model(policy, tokenizer, base, 0), tokenizer, base / "model")
    own = TOPOLOGY.replace("shape  ", "# shape").replace("tokenizer  ", "# tokenizer")
    (base / "t.toml").write_text(own.replace("new:llama", "./model"))
    result = tried(base, "--prompts", "2", "--answers", "2")
    assert result.exit_code == 0, result.output
    assert "model: ./model (as it is)" in output(result)
    assert "(2 prompts, 2 answers each)" in output(result)


def test_a_warm_start_is_explained_made_and_kept(base: Path) -> None:
    made = TOPOLOGY.replace('"data.jsonl"', '"new:chainz"').replace("chat   = true", "")
    made = made.replace('"Say {question}"', '"{question}"')
    warm = "[roles.trainer]\nwarm_start = { steps = 3, batch = 4 }"
    (base / "t.toml").write_text(f"{made}\n{warm}")
    refused = tried(base)
    assert refused.exit_code != 0
    assert "--warm-start" in str(refused.exception)
    assert "--from RUN" in str(refused.exception)
    first = tried(base, "--warm-start", "--prompts", "2")
    assert first.exit_code == 0, first.output
    (kept,) = (base / "runs" / ".warm").glob("*.safetensors")
    written_ns = kept.stat().st_mtime_ns
    again = tried(base, "--warm-start", "--prompts", "2")
    assert kept.stat().st_mtime_ns == written_ns, "the second time it is read"
    assert again.output.partition("╭")[2] == first.output.partition("╭")[2]


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "policy.model=./nowhere"), "is not a folder"),
        (("--set", 'tasks.t.reward={ "mine.py:lenght" = 1.0 }'), 'Did you mean "length"?'),
        (("--task", "tt"), "no task 'tt'. Did you mean \"t\"?"),
        (("--from", "gone"), 'there is no run "gone"'),
        (("--policy", "other"), "no policy 'other'"),
    ],
)
def test_a_wrong_name_is_told(base: Path, words: tuple[str, ...], expected: str) -> None:
    result = tried(base, *words)
    assert result.exit_code != 0
    assert expected in str(result.exception)


def test_a_line_that_is_not_json_is_named(base: Path) -> None:
    with (base / "data.jsonl").open("a") as file:
        file.write("{oops\n")
    result = tried(base)
    assert result.exit_code != 0
    assert "data.jsonl line 4: not JSON" in str(result.exception)


def test_a_prompt_longer_than_the_context_is_named_and_the_rest_is_tried(base: Path) -> None:
    with (base / "data.jsonl").open("a") as file:
        file.write(json.dumps({"question": "long " * 40, "answer": ""}) + "\n")
    result = tried(base)
    assert result.exit_code == 1
    text = output(result)
    assert "data.jsonl line 4: the prompt has" in text
    assert "[policy].context = 96" in text
    assert "(3 prompts, 4 answers each)" in text


def test_a_reward_that_raises_is_told_by_kind_and_never_scored(base: Path) -> None:
    result = tried(base, "--set", 'tasks.t.reward={ "mine.py:broken" = 1.0, exact = 1.0 }')
    assert result.exit_code == 1
    text = output(result)
    assert "12x reward 'mine.py:broken' raised KeyError" in text
    assert "12 of 12 answers could not be judged" in text
    assert "0% of groups carry signal" in text
    assert "mean reward" not in text


def test_a_reward_that_fails_on_some_prompts_leaves_the_others_judged(base: Path) -> None:
    result = tried(base, "--set", 'tasks.t.reward={ "mine.py:sometimes" = 1.0 }')
    assert result.exit_code == 1
    text = output(result)
    assert "8x reward 'mine.py:sometimes' raised ZeroDivisionError" in text
    assert "mean reward 1.000" in text


# ---------------------------------------------------------------- the verdict


def scored(reward: float | None, *, length: int = 4, stop: str = "stop", fault: str = "") -> Scored:
    ids = np.zeros(length, np.int32)
    segments = (Segment("model", ids, ids.astype(np.float32), learn=True),)
    key = SampleKey(TicketKey("policy", 0), 0)
    return Scored(Rollout(key, "t", "p", "text", "a", segments, stop), reward, {}, fault)


def trial(*groups: list[Scored]) -> Trial:
    made = Trial("t")
    made.asked = [Asked(i, "", "", "", 1, "a", list(group)) for i, group in enumerate(groups)]
    return made


def test_signal_is_a_group_of_unequal_rewards() -> None:
    made = trial(
        [scored(0.0), scored(1.0)],
        [scored(1.0), scored(1.0)],
        [scored(0.5), scored(None)],  # one judged answer compares with nothing
        [scored(0.0), scored(0.25), scored(None)],
    )
    assert made.signal == 0.5
    assert made.lines()[0].startswith("t: 50% of groups carry signal")
    assert "2 of 9 answers could not be judged" in made.lines()


def test_cut_answers_and_lengths_are_counted() -> None:
    made = trial([scored(0.0, length=2), scored(1.0, length=9, stop="length")])
    assert "50% of answers are cut at their longest; mean length 5.5 tokens" in made.lines()
    assert any("raise [policy].max_tokens" in line for line in made.lines())


def test_faults_are_counted_by_kind_with_one_whole_text() -> None:
    faults = [
        "reward 'a.py:f' raised KeyError: 'x' (x3) on the prompt 'one'",
        "reward 'a.py:f' raised KeyError: 'y' (x3) on the prompt 'two'; reward 'b' returned nan, "
        "which is no score (x3) on the prompt 'two'",
        "reward 'c' ran 2.0 s (x3) on the prompt 'one'",
    ]
    found: Any = trial([scored(None, fault=text) for text in faults]).faults()
    assert [(kind, count) for kind, count, _ in found] == [
        ("reward 'a.py:f' raised KeyError", 2),
        ("reward 'b' returned nan", 1),
        ("reward 'c' ran 2.0 s", 1),
    ]
    assert found[0][2] == faults[0]


def test_what_a_model_wrote_cannot_steer_a_terminal() -> None:
    assert visible("a\x1b[31mb\nc\td") == "a␛[31mb\nc    d"
    assert visible("a\nb\t", one_line=True) == "a\\nb\\t"
    assert visible("abcdef", 3) == "abc… (6 characters)"
