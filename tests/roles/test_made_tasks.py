"""The made-up tasks beside addz: exact answers, repeatable rows, sets and sizes that never meet."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import ConfigError
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tasks import addz, modz, sortz
from realnet.roles.tasks.making import held_out
from realnet.roles.tasks.source import MADE, made

NAMES = sorted(MADE)


def test_each_column_by_itself() -> None:
    steps, answer = modz.think(modz.Columns(3847, 925, 4), random.Random(0), slip=0.0)
    assert (",".join(steps), answer) == ("7+5=2,4+2=6,8+9=7,3+0=3", "3762")
    _, zeros = modz.think(modz.Columns(50, 50, 2), random.Random(0), slip=0.0)
    assert zeros == "00", "an answer has as many digits as the larger number"


def test_the_smallest_first_and_what_is_left() -> None:
    steps, answer = sortz.think("4928", random.Random(0), slip=0.0)
    assert (",".join(steps), answer) == ("2:498,4:98,8:9,9:", "2489")
    steps, answer = sortz.think("313", random.Random(0), slip=1.0)
    assert (",".join(steps), answer) == ("3:13,3:1,1:", "331"), "a slip, and what follows from it"


@pytest.mark.parametrize("name", NAMES)
def test_rows_repeat_and_keep_to_their_set(name: str) -> None:
    maker: Any = made(f"new:{name}", Path(), "")
    for wanted in (False, True):
        rows = [maker.row(3, k, held_out=wanted) for k in range(100)]
        assert rows == [maker.row(3, k, held_out=wanted) for k in range(100)]
        assert all(held_out(row["question"]) == wanted for row in rows)
        assert len({row["question"] for row in rows}) > 50


def test_answers_are_right() -> None:
    for k in range(200):
        row = modz.TRAINED.row(0, k, held_out=False)
        left, right = row["question"].strip("m=").split("+")
        columns = [(int(a) + int(b)) % 10 for a, b in zip(left, right, strict=True)]
        assert row["answer"] == "".join(map(str, columns[-int(row["level"]) :]))
        row = sortz.TRAINED.row(0, k, held_out=False)
        assert row["answer"] == "".join(sorted(row["question"].strip("s=")))


def test_unseen_sizes_are_never_drawn_and_never_demonstrated() -> None:
    for trained, unseen in ((modz.TRAINED, modz.UNSEEN), (sortz.TRAINED, sortz.UNSEEN)):
        levels = {trained.row(0, k, held_out=False)["level"] for k in range(300)}
        beyond = {unseen.row(0, k, held_out=True)["level"] for k in range(50)}
        assert len(levels) > 2
        assert not levels & beyond
        with pytest.raises(ConfigError, match="has no demonstrations"):
            unseen.demo(0, 0, 0.0)
    prompts = {modz.TRAINED.demo(0, k, 0.0)[0] for k in range(300)}
    sizes = {max(len(str(int(n))) for n in p.strip("m=").split("+")) for p in prompts}
    assert 4 not in sizes


@pytest.mark.parametrize("name", ["addz", "modz", "sortz"])
def test_demonstrations_fit_the_demo_and_become_direct_late(name: str) -> None:
    maker: Any = made(f"new:{name}", Path(), "")
    tokenizer = Tokenizer.new_chars()
    early = [maker.demo(0, k, 0.5) for k in range(300)]
    late = [maker.demo(0, k, 0.9) for k in range(300)]
    assert max(len(tokenizer.encode(response)) + 1 for _, response in early) <= 56
    assert not any(held_out(prompt) for prompt, _ in early)
    assert not any("<think></think>" in response for _, response in early)
    direct = [response for _, response in late if response.startswith("<think></think>")]
    assert 0.55 < len(direct) / 300 < 0.75
    assert all(re.fullmatch(r"<think>[^<]+</think>\d+", response) for _, response in early)


def test_a_direct_answer_is_the_right_one() -> None:
    for k in range(100):
        prompt, response = modz.TRAINED.demo(0, k, 1.0)
        if response.startswith("<think></think>"):
            left, right = (int(n) for n in prompt.strip("m=").split("+"))
            level = max(len(str(left)), len(str(right)))
            _, answer = modz.think(modz.Columns(left, right, level), random.Random(0), 0.0)
            assert response == f"<think></think>{answer}"


def test_addz_is_what_it_was() -> None:
    """Runs and figures that were published rest on these."""
    thought = "<think>4+0=04,7+8=15,2+1=04</think>454"
    assert addz.demo(0, 2, 0.9) == ("000274+000180=", thought)
    assert addz.demo(0, 0, 0.9) == ("000015+000035=", "<think></think>50")
    assert addz.row(0, 0, held_out=True)["question"] == "009768+004125="
