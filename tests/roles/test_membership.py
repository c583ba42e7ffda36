"""Who takes part in a collective update: seeded histories, and the cases by name."""

from __future__ import annotations

import random

import pytest

from realnet.roles.messages import Version
from realnet.roles.weights.membership import Go, Membership


def version(number: int) -> Version:
    return Version("p", 0, number)


def taken_in(*names: str) -> Membership:
    made = Membership(5.0)
    made.offer(version(0))
    for name in names:
        assert "from the next version on" in made.ready(name, version(0), 0.0)
    return made


def update(made: Membership, number: int, *names: str, at_s: float = 10.0) -> Go | None:
    made.offer(version(number))
    for name in names:
        made.ready(name, version(number), at_s)
    return made.go(at_s)


def test_who_comes_for_the_first_time_is_expected_the_next_time() -> None:
    made = taken_in("b", "a")
    assert made.go(100.0) is None
    assert update(made, 1, "a", "b") == Go(version(1), 1, ("a", "b"), ())


def test_the_group_stands_while_its_members_stay_and_is_an_epoch_else() -> None:
    made = taken_in("a", "b")
    for number in (1, 2):
        going = update(made, number, "b", "a")
        assert going == Go(version(number), 1, ("a", "b"), ())
        assert not made.ended("a", 1, "")
        assert made.ended("b", 1, "")
        outcome = made.close()
        assert outcome is not None
        assert outcome.good == ("a", "b")
        assert made.built == ("a", "b")
    made.offer(version(3))
    assert made.ready("c", version(3), 0.0)
    assert update(made, 4, "a", "b", "c") == Go(version(4), 2, ("a", "b", "c"), ())


def test_the_missing_are_named_waited_for_and_then_left_out() -> None:
    made = taken_in("a", "b", "c")
    made.offer(version(1))
    assert made.ready("a", version(1), 10.0) == ""
    assert made.waiting_for == ("b", "c")
    assert made.due_s == 15.0
    assert made.go(14.9) is None
    assert made.go(15.0) == Go(version(1), 1, ("a",), ("b", "c"))
    assert made.members == {"a"}
    made.ended("a", 1, "")
    made.close()
    assert "new here" in made.ready("b", version(1), 16.0)
    going = update(made, 2, "a", "b")
    assert going is not None
    assert (going.epoch, going.ranks) == (2, ("a", "b"))


def test_one_that_died_is_not_waited_for() -> None:
    made = taken_in("a", "b")
    made.offer(version(1))
    made.ready("a", version(1), 0.0)
    assert made.go(0.0) is None
    made.gone("b")
    assert made.go(0.0) == Go(version(1), 1, ("a",), ())


@pytest.mark.parametrize("heard", [True, False])
def test_one_that_died_and_came_again_is_in_no_group_that_stood(heard: bool) -> None:
    made = taken_in("a", "b")
    assert update(made, 1, "a", "b") is not None
    for name in "ab":
        made.ended(name, 1, "")
    made.close()
    if heard:
        made.gone("b")
    else:
        made.members.discard("b")  # it was missing once
    assert "new here" in made.ready("b", version(1), 11.0)
    going = update(made, 2, "a", "b")
    assert going is not None
    assert (going.epoch, going.ranks) == (2, ("a", "b"))


@pytest.mark.parametrize(("error", "ended"), [("timed out", ["", ""]), ("", ["", "damaged"])])
def test_after_a_failure_the_group_is_built_again(error: str, ended: list[str]) -> None:
    made = taken_in("a", "b")
    assert update(made, 1, "a", "b") is not None
    for name, text in zip("ab", ended, strict=True):
        made.ended(name, 1, text)
    outcome = made.close(error)
    assert outcome is not None
    assert outcome.failed == tuple((n, t) for n, t in zip("ab", ended, strict=True) if t)
    going = update(made, 2, "a", "b")
    assert going is not None
    assert going.epoch == 2


def test_a_member_of_whom_nothing_was_heard_is_none_any_more() -> None:
    made = taken_in("a", "b")
    assert update(made, 1, "a", "b") is not None
    made.ended("a", 1, "Operation timed out")
    made.ended("b", 7, "")  # of another epoch
    outcome = made.close("Operation timed out")
    assert outcome is not None
    assert (outcome.silent, outcome.good) == (("b",), ())
    assert made.members == {"a"}


def test_an_older_version_is_not_waited_for_when_a_newer_one_is_out() -> None:
    made = taken_in("a", "b")
    made.offer(version(1))
    made.ready("a", version(1), 0.0)
    assert made.offer(version(2)) == ("a",)
    assert "not on offer" in made.ready("a", version(1), 0.0)
    assert made.ready("a", version(2), 0.0) == ""


@pytest.mark.parametrize("seed", range(40))
def test_no_history_waits_for_ever_or_lets_one_in_twice(seed: int) -> None:
    """Members come, die, stand still and are late; every update begins in time, and ends."""
    rng = random.Random(seed)
    made, now_s, epoch, number = Membership(5.0), 0.0, 0, 0
    seen: dict[int, tuple[str, ...]] = {}
    made.offer(version(0))
    for _ in range(300):
        now_s += rng.random() * 3
        name = rng.choice("abcde")
        what = rng.random()
        if what < 0.2:
            number += 1
            made.offer(version(number))
        elif what < 0.75:
            known = name in made.members
            assert (made.ready(name, version(number), now_s) == "") <= known
        elif what < 0.85:
            made.gone(name)
            assert name not in made.members
        due_s = made.due_s
        going = made.go(now_s)
        assert going is not None or due_s is None or now_s < due_s
        if going is None:
            continue
        assert going.epoch >= epoch
        assert going.ranks
        assert len(set(going.ranks)) == len(going.ranks)
        assert not set(going.ranks) & set(going.missing)
        assert seen.setdefault(going.epoch, going.ranks) == going.ranks
        epoch = going.epoch
        for rank in going.ranks:
            if rng.random() < 0.9:
                made.ended(rank, epoch, rng.choice(["", "", "", "failed"]))
        outcome = made.close(rng.choice(["", "", "failed"]))
        assert outcome is not None
        told = {*outcome.good, *outcome.silent, *(n for n, _ in outcome.failed)}
        assert told == set(going.ranks)
        assert not made.members & set(outcome.silent)
