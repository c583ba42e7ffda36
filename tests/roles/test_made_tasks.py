"""The made-up tasks beside addz: exact answers, repeatable rows, sets and sizes that never meet."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import ConfigError
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tasks import addz, chainz
from realnet.roles.tasks.columnz import MAXZ, MODZ, Pair
from realnet.roles.tasks.making import held_out
from realnet.roles.tasks.source import MADE, made

NAMES = sorted(MADE)


def test_each_column_by_itself() -> None:
    steps, answer = MODZ.think(Pair(3847, 925, 4), random.Random(0), slip=0.0)
    assert (",".join(steps), answer) == ("7+5=2,4+2=6,8+9=7,3+0=3", "3762")
    _, zeros = MODZ.think(Pair(50, 50, 2), random.Random(0), slip=0.0)
    assert zeros == "00", "an answer has as many digits as the larger number"
    steps, answer = MAXZ.think(Pair(3847, 925, 4), random.Random(0), slip=0.0)
    assert (",".join(steps), answer) == ("7+5=7,4+2=4,8+9=9,3+0=3", "3947")
    steps, answer = MAXZ.think(Pair(17, 20, 2), random.Random(0), slip=1.0)
    assert (",".join(steps), answer) == ("7+0=0,1+2=1", "10"), "a slip takes the other digit"


def test_each_sum_from_the_one_before_it() -> None:
    steps, answer = chainz.think("4928", random.Random(0), slip=0.0)
    assert (",".join(steps), answer) == ("0+8=8,8+2=0,0+9=9,9+4=3", "3908")
    steps, answer = chainz.think("313", random.Random(0), slip=1.0)
    assert (",".join(steps), answer) == ("0+3=4,4+1=6,6+3=0", "064"), "a slip, and what follows"


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
        for maker, column in ((MODZ, lambda a, b: (a + b) % 10), (MAXZ, max)):
            row = maker.row(0, k, held_out=False)
            left, right = row["question"].strip("mx=").split("+")
            digits = [column(int(a), int(b)) for a, b in zip(left, right, strict=True)]
            assert row["answer"] == "".join(map(str, digits[-int(row["level"]) :]))
        row = chainz.TRAINED.row(0, k, held_out=False)
        asked = [int(digit) for digit in row["question"].strip("c=")][::-1]
        sums = [str(sum(asked[: n + 1]) % 10) for n in range(int(row["level"]))]
        assert row["answer"] == "".join(reversed(sums))


def test_an_unseen_length_is_never_drawn_and_never_demonstrated() -> None:
    levels = {chainz.TRAINED.row(0, k, held_out=False)["level"] for k in range(300)}
    beyond = {chainz.UNSEEN.row(0, k, held_out=True)["level"] for k in range(50)}
    assert (levels, beyond) == ({"2", "3", "4", "6"}, {"5"})
    shown = {chainz.TRAINED.demo(0, k, 0.0)[1].count("=") for k in range(300)}
    assert shown == {2, 3, 4, 6}, "a step each"
    with pytest.raises(ConfigError, match="has no demonstrations"):
        chainz.UNSEEN.demo(0, 0, 0.0)


@pytest.mark.parametrize("name", ["addz", "maxz", "modz", "chainz"])
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


@pytest.mark.parametrize("maker", [MODZ, MAXZ, chainz.TRAINED])
def test_a_direct_answer_is_the_right_one(maker: Any) -> None:
    """Whatever slips when it thinks: the k-th demonstration asks the same, early and late."""
    right = wrong = 0
    for k in range(200):
        prompt, response = maker.demo(0, k, 1.0)
        same, thought = maker.demo(0, k, 0.0)
        assert prompt == same
        answer = response.rpartition(">")[2]
        if not response.startswith("<think></think>"):
            assert response == thought
        elif thought.endswith(f">{answer}"):
            right += 1
        else:
            wrong += 1
    assert right > wrong > 10, "direct answers are right; slips are made in thinking only"


def test_addz_is_what_it_was() -> None:
    """Runs and figures that were published rest on these."""
    thought = "<think>4+0=04,7+8=15,2+1=04</think>454"
    assert addz.demo(0, 2, 0.9) == ("000274+000180=", thought)
    assert addz.demo(0, 0, 0.9) == ("000015+000035=", "<think></think>50")
    assert addz.row(0, 0, held_out=True)["question"] == "009768+004125="
