"""A curriculum deals tickets the same in every process and every life, and is told of by name."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import ConfigError
from realnet.roles.checkpoints.meta import digest_of_tasks
from realnet.roles.messages import Standing
from realnet.roles.tables import Task
from realnet.roles.tasks import Dataset, check_tasks
from realnet.roles.tasks.curriculum import Choice, Curriculum, fingerprint

SIZES = {"easy": 10, "hard": 0}
CODE = """
def easy_first(ticket, sizes):
    return {"addz": 1.0, "chainz": ticket / 50}

def named(ticket, sizes):
    return ("chainz", ticket // 2) if ticket % 2 else "addz"

def broken(ticket, sizes):
    return {"adz": 1.0}
"""


def tasks(**fields: Any) -> dict[str, Task]:
    reward = {"exact": 1.0}
    return {name: Task(data=f"new:{name}", reward=reward, **fields) for name in ("addz", "chainz")}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "plan.py").write_text(CODE)
    return tmp_path


def dealt(function: Callable[..., Any], seed: int = 0) -> Curriculum:
    return Curriculum(function, SIZES, seed, "curriculum")


def test_weights_move_the_mix_and_each_problem_comes_once() -> None:
    def weights(ticket: int, sizes: dict[str, int]) -> dict[str, float]:
        assert sizes == SIZES
        return {"easy": 1.0, "hard": 0.0 if ticket < 100 else 3.0}

    curriculum = dealt(weights)
    first = [curriculum(k) for k in range(100)]
    later = [curriculum(k) for k in range(100, 1100)]
    assert {choice.task for choice in first} == {"easy"}
    assert 700 < Counter(choice.task for choice in later)["hard"] < 800
    for name in SIZES:
        js = [choice.j for choice in first + later if choice.task == name]
        assert js == list(range(len(js))), "no problem of a task is skipped or asked twice"


def test_a_prompter_that_starts_in_the_middle_deals_the_same() -> None:
    def weights(ticket: int, sizes: dict[str, int]) -> dict[str, float]:
        return {"easy": random.Random(ticket).random(), "hard": 0.5}

    whole = dealt(weights)
    expected = [whole(k) for k in range(500)]
    late = dealt(weights)
    assert [late(k) for k in (499, 3, 250)] == [expected[k] for k in (499, 3, 250)]
    assert [dealt(weights, seed=1)(k) for k in range(50)] != expected[:50]


def test_a_function_may_be_told_how_tasks_go() -> None:
    told: list[dict[str, float]] = []

    def when_able(ticket: int, sizes: dict[str, int], rewards: dict[str, float]) -> str:
        told.append(rewards)
        return "hard" if rewards.get("easy", 0.0) > 0.5 else "easy"

    curriculum = dealt(when_able)
    assert [curriculum(k).task for k in range(3)] == ["easy"] * 3
    curriculum.learn([Standing(3, {"easy": 0.2}), Standing(6, {"easy": 0.9})])
    assert curriculum.num_standings == 2
    assert [curriculum(k).task for k in range(3, 9)] == ["easy"] * 3 + ["hard"] * 3
    curriculum.learn([Standing(6, {"easy": 0.0})])
    assert curriculum(9).task == "hard", "what is known stays"
    assert told[2:4] == [{}, {"easy": 0.2}]
    with pytest.raises(ConfigError, match="ticket 7 was dealt before it was known"):
        curriculum.learn([Standing(7, {"easy": 0.1})])


def test_a_task_or_a_row_may_be_named() -> None:
    curriculum = dealt(lambda ticket, sizes: ("hard", 7) if ticket == 1 else "hard")
    assert [curriculum(k) for k in range(3)] == [
        Choice("hard", 0),
        Choice("hard", 1, row=7),
        Choice("hard", 1),
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"esy": 1.0}, "names the task 'esy' for ticket 0.*Did you mean \"easy\""),
        ({"easy": -1.0}, "weighs 'easy' with -1.0"),
        ({"easy": float("nan")}, "weighs 'easy' with nan"),
        ({"easy": "much"}, "weighs 'easy' with 'much'"),
        ({"easy": 0.0}, "gives no task any weight"),
        (("easy", 10), "names row 10 of 'easy' for ticket 0: it has 0 to 9"),
        (("hard", -1), "names row -1"),
        (3, "answers 3 for ticket 0: weights"),
    ],
)
def test_an_answer_that_is_none_is_told(answer: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        dealt(lambda ticket, sizes: answer)(0)


def test_a_function_that_raises_is_told_with_the_ticket() -> None:
    def failing(ticket: int, sizes: dict[str, int]) -> str:
        return "easy" if ticket < 3 else str(1 // 0)

    with pytest.raises(ConfigError, match="curriculum raised ZeroDivisionError for ticket 3"):
        dealt(failing).check()


def test_a_function_of_chance_is_refused() -> None:
    rng = random.Random(0)
    with pytest.raises(ConfigError, match=r"must answer the same.*random\.Random\(ticket\)"):
        dealt(lambda ticket, sizes: {"easy": rng.random(), "hard": 1.0}).check()


def test_tickets_of_a_dataset_follow_it(base: Path) -> None:
    dataset = Dataset(tasks(), base, "plan.py:easy_first")
    first = Counter(dataset.train(k)[0] for k in range(20))
    later = Counter(dataset.train(k)[0] for k in range(1000, 1100))
    assert first["addz"] > 12
    assert later["chainz"] > 85
    named = Dataset(tasks(), base, "plan.py:named")
    assert named.train(7)[1] == named.nth("chainz", 3)
    assert named.train(6)[1] == Dataset(tasks(), base).nth("addz", 3)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("plan.py:esy_first", 'Did you mean "easy_first"'),
        ("plam.py:easy_first", 'Did you mean "plan.py"'),
        ("plan.py:broken", "names the task 'adz'"),
    ],
)
def test_check_tells_what_is_wrong_with_it(base: Path, reference: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_tasks(tasks(), base, "train", reference)


def test_another_function_is_another_digest(base: Path) -> None:
    before = fingerprint("plan.py:named", base)
    assert digest_of_tasks(tasks(), 8, before) == digest_of_tasks(tasks(), 8, before)
    assert digest_of_tasks(tasks(), 8, before) != digest_of_tasks(tasks(), 8)
    (base / "plan.py").write_text(CODE + "\n# changed\n")
    assert fingerprint("plan.py:named", base) != before
    assert fingerprint("", base) == ""
