"""Advantages: hand-derived cases, and the groups that used to blow up elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from realnet.roles.algorithms.advantages import Kind, advantages
from realnet.roles.algorithms.batching import micro_batches
from realnet.roles.algorithms.presets import PRESETS, Contradiction, Loss, expand

KINDS: tuple[Kind, ...] = ("grpo", "dr_grpo", "rloo")


def of(kind: Kind, keys: str, *rewards: float | None) -> list[float]:
    return advantages(list(keys), rewards, kind)[0].tolist()


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    # others' means: 1/3, 2/3, 2/3, 1/3
    assert of("rloo", "aaaa", 1, 0, 0, 1) == pytest.approx(
        [2 / 3, -2 / 3, -2 / 3, 2 / 3], abs=1e-12
    )
    assert of("rloo", "aa", 1, 0) == [1.0, -1.0]


def test_dr_grpo_centres_and_keeps_the_scale() -> None:
    assert of("dr_grpo", "aaaa", 3, 0, 0, 1) == [2.0, -1.0, -1.0, 0.0]


def test_grpo_divides_by_the_sample_deviation() -> None:
    # mean 1/2, std with n - 1: sqrt(4 * 1/4 / 3)
    expected = 0.5 / (np.sqrt(1 / 3) + 1e-6)
    got = of("grpo", "aaaa", 1, 0, 0, 1)
    assert got == pytest.approx([expected, -expected, -expected, expected], abs=1e-12)


def test_groups_are_found_by_key_in_any_order() -> None:
    together = of("rloo", "aabbb", 1, 0, 0, 0, 3)
    mixed = of("rloo", "babab", 0, 1, 0, 0, 3)
    assert together == [1.0, -1.0, -1.5, -1.5, 3.0]
    assert mixed == [-1.5, 1.0, -1.5, -1.0, 3.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_group_uses_only_its_own_members(kind: Kind) -> None:
    whole = of(kind, "aaabbbbb", 1, 0, 0, 1, 1, 0, 1, 0)
    assert whole[:3] == of(kind, "aaa", 1, 0, 0)
    assert whole[3:] == of(kind, "bbbbb", 1, 1, 0, 1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_teach_nothing_are_exactly_zero(kind: Kind) -> None:
    assert of(kind, "a", 1) == [0.0]
    assert of(kind, "aaa", 0.1, 0.1, 0.1) == [0.0, 0.0, 0.0]
    assert of(kind, "") == []
    assert of(kind, "aab", None, None, None) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_unscored_answers_are_outside_the_statistics(kind: Kind) -> None:
    with_fault = of(kind, "aaaa", 1, None, 0, 0)
    without = of(kind, "aaa", 1, 0, 0)
    assert with_fault == [without[0], 0.0, without[1], without[2]]
    assert of(kind, "aaa", 1, None, None) == [0.0, 0.0, 0.0]


def test_groups_that_teach_nothing_are_counted() -> None:
    keys, rewards = list("aabbcdd"), [1, 0, 1, 1, 1, None, None]
    assert advantages(keys, rewards, "rloo")[1:] == (4, 3)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 group keys for 1 rewards"):
        advantages(["a", "a"], [1.0], "rloo")


# ---------------------------------------------------------------- micro-batches


def test_micro_batches_hold_everything_once_under_the_budget() -> None:
    lengths = [5, 30, 7, 7, 12, 1, 30, 8]
    parts = micro_batches(lengths, 32)
    assert sorted(i for part in parts for i in part) == list(range(8))
    assert all(max(lengths[i] for i in p) * len(p) <= 32 for p in parts)
    assert parts[:2] == [[1], [6]]


def test_a_sequence_over_the_budget_goes_alone() -> None:
    assert micro_batches([100, 3, 3], 10) == [[0], [1, 2]]
    assert micro_batches([], 10) == []


# ---------------------------------------------------------------- presets


def test_presets_open_into_visible_fields() -> None:
    for name in PRESETS:
        settled = expand(name, Loss())  # type: ignore[arg-type]
        assert settled.advantage == name
    mine = expand("grpo", Loss(clip=(0.1, 0.3), decoupled=False))
    assert (mine.clip, mine.proximal, mine.normalise) == ((0.1, 0.3), "off", "tokens")


@pytest.mark.parametrize(
    ("loss", "keys"),
    [
        (Loss(decoupled=True, proximal="off"), ("loss.decoupled", "loss.proximal")),
        (Loss(decoupled=False, proximal="recompute"), ("loss.decoupled", "loss.proximal")),
        (Loss(decoupled=False, weight_cap=2.0), ("loss.decoupled", "loss.weight_cap")),
        (Loss(decoupled=False, weight_mode="clamp"), ("loss.decoupled", "loss.weight_mode")),
        (Loss(clip=(0.0, 0.2)), ("loss.clip",)),
        (Loss(clip=(0.2, -0.1)), ("loss.clip",)),
        (Loss(weight_cap=1.0), ("loss.weight_cap",)),
    ],
)
def test_contradictions_are_refused_and_name_their_keys(loss: Loss, keys: tuple[str, ...]) -> None:
    with pytest.raises(Contradiction) as caught:
        expand("grpo", loss)
    assert all(key in str(caught.value) for key in keys)
