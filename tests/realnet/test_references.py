"""References: every form is read, every slip is told with the right spelling."""

from __future__ import annotations

import re
from typing import Annotated

import pytest

from realnet import Config, ConfigError, doc
from realnet.config import read_table
from realnet.references import (
    AnyReference,
    CodeReference,
    HubReference,
    NewReference,
    PathReference,
    Reference,
    RunReference,
    parse_reference,
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hf:Qwen/Qwen2.5-1.5B", HubReference("Qwen", "Qwen2.5-1.5B")),
        ("hf:openai/gsm8k/main:train", HubReference("openai", "gsm8k", "main", "train")),
        ("hf:openai/gsm8k:test[:100]@v1.0", None),
        (
            "hf:openai/gsm8k:test@refs/pr/3",
            HubReference("openai", "gsm8k", "", "test", "refs/pr/3"),
        ),
        ("./data/rows.jsonl", PathReference("./data/rows.jsonl")),
        ("models/qwen", PathReference("models/qwen")),
        ("new:llama", NewReference("llama")),
        ("run:demo@120", RunReference("demo", "120")),
        ("run:demo@best", RunReference("demo", "best")),
        ("run:demo", RunReference("demo", "last")),
        ("my_rewards.py:short", CodeReference("my_rewards.py", "short")),
        ("../lib/r.py:short", CodeReference("../lib/r.py", "short")),
        ("pkg.mod:fn", CodeReference("pkg.mod", "fn")),
    ],
)
def test_forms(text: str, meant: AnyReference | None) -> None:
    if meant is None:
        with pytest.raises(ValueError, match=r"write hf:owner/name\[/subset\]"):
            parse_reference(text)
    else:
        assert parse_reference(text) == meant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:gpt2", "the owner is missing: write hf:owner/name"),
        ("hf:/openai/gsm8k", "without an address: owner and name only"),
        ("hf:openai/gsm8k@", "something is missing at the end"),
        ("hf:openai/gsm 8k", "it has no spaces"),
        ("run:demo@first", "the step is a whole number, best or last: write run:NAME[@step]"),
        ("new:", "it names what is made"),
        ("hug:a/b", 'no reference begins with "hug:"'),
        ("huggingface:a/b", 'Did you mean "hf:a/b"?'),
        ("https://huggingface.co/a/b", 'Did you mean "hf:a/b"?'),
        ("file:rows.jsonl", 'Did you mean "./rows.jsonl"?'),
    ],
)
def test_slips(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_reference(text)


class Table(Config):
    data: Annotated[str, doc("rows"), Reference("path", "new")] = ""


def test_a_field_takes_its_kinds_only() -> None:
    assert read_table(Table, {"data": "new:addz"}, "t").data == "new:addz"
    assert read_table(Table, {"data": ""}, "t").data == ""
    with pytest.raises(ConfigError) as caught:
        read_table(Table, {"data": "pkg.mod:fn"}, "t")
    assert "a function or class does not do here: write ./path or new:NAME" in str(caught.value)
