"""The made-up addition task: exact answers, repeatable rows, two sets that never meet."""

from __future__ import annotations

import random
import re

from realnet.roles.tasks import addz


def test_a_demonstration_without_slips_is_the_sum() -> None:
    text = addz.think(addz.Sum(3847, 925, 4), random.Random(0), slip=0.0)
    assert text == "<think>7+5=12,4+2=07,8+9=17,3+0=04</think>4772"
    overflow = addz.think(addz.Sum(99, 1, 2), random.Random(0), slip=0.0)
    assert overflow == "<think>9+1=10,9+0=10</think>100"


def test_a_slip_is_followed_by_what_follows_from_it() -> None:
    always = addz.think(addz.Sum(19, 12, 2), random.Random(0), slip=1.0)
    # 9+2 with an invented carry is 12, its carry is then forgotten: 1+1 = 02
    assert always == "<think>9+2=12,1+1=02</think>22"


def test_rows_repeat_and_are_right() -> None:
    for held_out in (False, True):
        rows = [addz.row(3, k, held_out=held_out) for k in range(200)]
        assert rows == [addz.row(3, k, held_out=held_out) for k in range(200)]
        for row in rows:
            left, right = row["question"].rstrip("=").split("+")
            assert len(left) == len(right) == addz.WIDTH
            assert row["answer"] == str(int(left) + int(right))
            assert row["forced"] == "<think>" + left[-1]
            assert int(row["level"]) == max(len(str(int(left))), len(str(int(right))))
            assert addz.held_out(row["question"]) == held_out
    assert {row["level"] for row in rows} == {"2", "3", "4", "5", "6"}
    assert addz.row(4, 0, held_out=False) != addz.row(3, 0, held_out=False)


def test_demonstrations_are_of_training_problems_and_become_direct_late() -> None:
    early = [addz.demo(0, k, 0.5) for k in range(300)]
    late = [addz.demo(0, k, 0.9) for k in range(300)]
    assert not any(addz.held_out(prompt) for prompt, _ in early)
    assert not any("<think></think>" in response for _, response in early)
    direct = [r for _, r in late if r.startswith("<think></think>")]
    assert 0.55 < len(direct) / 300 < 0.75
    for (prompt, thought), (same, answer) in zip(early, late, strict=True):
        assert prompt == same
        if answer.startswith("<think></think>"):
            left, right = prompt.rstrip("=").split("+")
            assert answer == f"<think></think>{int(left) + int(right)}"
        else:
            assert answer == thought
        assert re.fullmatch(r"<think>(\d\+\d=\d\d,)*\d\+\d=\d\d</think>\d+", thought)
