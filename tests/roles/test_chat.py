"""`realnet chat`: what becomes of what is said, and that a conversation is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import ConfigError
from realnet.roles.messages import Sampling, Version
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.verbs.chat import Talk
from realnet.roles.verbs.setting import Setting
from realnet.roles.verbs.weights import base_weights
from realnet.roles.verbs.writing import Writer
from realnet.topology.plan import Plan

PLAN = Plan("r", "r", "", "", {}, (), (), (), {}, {})
SAMPLING = Sampling(max_tokens=8, stop_ids=(999,))


class Echo:
    """A writer that says what it was asked."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.prompts = tokenizer, list[str]()
        self.sampled: list[Sampling] = []

    def stream(self, ids: Any, sampling: Sampling) -> Iterator[str]:
        self.prompts.append(self.tokenizer.decode(ids))
        self.sampled.append(sampling)
        yield from ("o", "k")


def setting(context: int = 64, tokenizer: str = "new:bytes") -> Setting:
    policy = Policy(model="new:qwen2", tokenizer=tokenizer, context=context, max_tokens=8)
    return Setting(PLAN, "policy", policy, {})


def test_turns_go_through_the_template_and_are_remembered() -> None:
    tokenizer = Tokenizer.new_bytes()
    writer: Any = Echo(tokenizer)
    talk = Talk(setting(512), tokenizer, writer, raw=False)
    assert "".join(talk.answer("hello", SAMPLING, seed=3)) == "ok"
    assert "".join(talk.answer("again", SAMPLING, seed=4)) == "ok"
    assert writer.prompts[0].endswith("<|im_start|>assistant\n")
    assert "hello" in writer.prompts[1]
    assert "assistant\nok" in writer.prompts[1]
    assert [sampling.seed for sampling in writer.sampled] == [3, 4]


@pytest.mark.parametrize(("made", "raw"), [("new_chars", False), ("new_bytes", True)])
def test_without_a_template_each_line_is_a_prompt(made: str, raw: bool) -> None:
    tokenizer = getattr(Tokenizer, made)()
    writer: Any = Echo(tokenizer)
    talk = Talk(setting(), tokenizer, writer, raw=raw)
    for line in ("1+1=", "2+2="):
        list(talk.answer(line, SAMPLING, seed=0))
    assert writer.prompts == ["1+1=", "2+2="]
    assert "as it stands" in talk.how


def test_what_leaves_no_room_is_told() -> None:
    tokenizer = Tokenizer.new_bytes()
    writer: Any = Echo(tokenizer)
    talk = Talk(setting(16), tokenizer, writer, raw=True)
    with pytest.raises(ConfigError, match=r"20 tokens.*\[policy\].context = 16 leaves no room"):
        list(talk.answer("x" * 20, SAMPLING, seed=0))
    with pytest.raises(ConfigError, match="nothing was said"):
        list(talk.answer("", SAMPLING, seed=0))
    list(talk.answer("x" * 12, SAMPLING, seed=0))
    assert writer.sampled[-1].max_tokens == 4, "no longer than the context has room"


def test_a_streamed_answer_is_the_same_text_in_pieces(tmp_path: Path) -> None:
    tokenizer = Tokenizer.new_bytes()
    here = setting()
    writer = Writer(here, tokenizer, base_weights(here, tokenizer), one=True)
    ids: Any = tokenizer.encode("ab")
    sampling = Sampling(max_tokens=30, seed=1)
    pieces = list(writer.stream(_array(ids), sampling))
    assert len(pieces) > 3
    assert "".join(pieces) == "".join(writer.stream(_array(ids), sampling))
    assert writer.version == Version("policy", 0, 0)


def _array(ids: list[int]) -> Any:
    import numpy as np

    return np.asarray(ids, np.int32)
