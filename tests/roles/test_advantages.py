"""Advantages, shaping and micro-batches: hand-derived cases, and groups that blew up elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from realnet.roles.algorithms.advantages import Kind, advantages, equal_groups
from realnet.roles.algorithms.batching import bundles, micro_batches
from realnet.roles.algorithms.credit import Rule, credit
from realnet.roles.algorithms.gae import gae
from realnet.roles.algorithms.shaping import overlong, uninformative

KINDS: tuple[Kind, ...] = ("grpo", "dr_grpo", "rloo")


def of(kind: Kind, keys: str, *rewards: float | None) -> list[float]:
    return advantages(list(keys), rewards, kind).tolist()


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
    assert equal_groups(keys, rewards) == (4, 3)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 group keys for 1 rewards"):
        advantages(["a", "a"], [1.0], "rloo")


# ---------------------------------------------------------------- credit, token by token

NONE = [np.zeros(2), np.zeros(1), np.zeros(3)]


@pytest.mark.parametrize("rule", KINDS)
def test_inside_groups_every_token_gets_what_its_answer_is_worth(rule: Kind) -> None:
    got = credit(list("aba"), [1.0, 7.0, 0.0], NONE, rule)
    expected = advantages(list("aba"), [1.0, 7.0, 0.0], rule)
    for tokens, worth, size in zip(got, expected, (2, 1, 3), strict=True):
        assert tokens.tolist() == [worth] * size


def test_penalties_count_against_the_answer_in_its_group() -> None:
    taken = [np.array([0.1, 0.3]), np.array([-0.2])]
    got = credit(list("aa"), [1.0, 0.0], taken, "rloo")  # 0.6 against 0.2
    assert [t.tolist() for t in got] == [
        pytest.approx([0.4, 0.4]),
        pytest.approx([-0.4]),
    ]


def test_reinforce_pp_whitens_what_is_still_to_come_over_all_tokens() -> None:
    taken = [np.array([0.1, 0.2]), np.array([0.0])]
    got = credit(list("ab"), [1.0, 0.0], taken, "reinforce_pp")
    raw = np.array([1.0 - 0.3, 1.0 - 0.2, 0.0])
    expected = (raw - 0.5) / np.sqrt(((raw - 0.5) ** 2).sum() / 2 + 1e-8)
    assert np.concatenate(got).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_reinforce_pp_with_a_baseline_centres_groups_and_scales_the_batch() -> None:
    got = credit(list("aabb"), [1, 0, 5, 5], [np.zeros(n) for n in (1, 1, 2, 1)],
                 "reinforce_pp_baseline")  # fmt: skip
    std = np.sqrt(2 * 0.25 / 4 + 1e-8)
    assert [t.tolist() for t in got] == [
        pytest.approx([0.5 / std]),
        pytest.approx([-0.5 / std]),
        [0.0, 0.0],
        [0.0],
    ]


@pytest.mark.parametrize("rule", [*KINDS, "reinforce_pp", "reinforce_pp_baseline"])
def test_every_rule_is_finite_where_there_is_nothing_to_compare(rule: Rule) -> None:
    for rewards in ([1.0], [0.1] * 3, [None] * 3, [1.0, None, None], []):
        got = credit(["a"] * len(rewards), rewards, [np.zeros(2)] * len(rewards), rule)
        assert all(tokens.tolist() == [0.0, 0.0] for tokens in got)
    mixed = credit(list("aab"), [1.0, None, 0.0], [np.zeros(2)] * 3, rule)
    assert mixed[1].tolist() == [0.0, 0.0]
    assert np.isfinite(np.concatenate(mixed)).all()


# ---------------------------------------------------------------- a critic's values

ALL = np.full((1, 3), True)


def test_gae_is_the_sum_of_discounted_errors() -> None:
    rewards, values = np.array([[0.0, 0.0, 1.0]]), np.array([[0.5, 0.2, 0.4]])
    deltas = [0.9 * 0.2 - 0.5, 0.9 * 0.4 - 0.2, 1.0 - 0.4]
    k = 0.9 * 0.8
    expected = [
        deltas[0] + k * deltas[1] + k * k * deltas[2],
        deltas[1] + k * deltas[2],
        deltas[2],
    ]
    got, returns = gae(rewards, values, ALL, 0.9, 0.8)
    assert got[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert returns[0].tolist() == pytest.approx((got + values)[0].tolist())
    cut, _ = gae(rewards, values, ALL, 0.9, 0.8, after=np.array([2.0]))
    assert cut[0, 2] == pytest.approx(expected[2] + 1.8)


def test_without_discount_and_with_full_smoothing_gae_is_return_less_value() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 4, 9))
    got, returns = gae(rewards, values, np.full((4, 9), True))
    to_go = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(got, to_go - values, atol=1e-12)
    np.testing.assert_allclose(returns, to_go, atol=1e-12)


def test_what_a_tool_said_takes_no_time_and_no_reward() -> None:
    written = np.array([[True, False, True, False]])
    rewards, values = np.array([[0.0, 0.5, 0.0, 1.0]]), np.array([[0.3, 9.0, 0.6, 9.0]])
    got, returns = gae(rewards, values, written, 0.9, 0.8)
    plain, _ = gae(np.array([[0.5, 1.0]]), np.array([[0.3, 0.6]]), ALL[:, :2], 0.9, 0.8)
    assert got[0].tolist() == [plain[0, 0], 0.0, plain[0, 1], 0.0]
    assert returns[0, 1] == returns[0, 3] == 0.0
    before = np.array([[False, True]])
    assert gae(np.array([[2.0, 0.0]]), np.zeros((1, 2)), before)[0].tolist() == [[0.0, 2.0]]
    nothing, _ = gae(np.ones((1, 2)), np.zeros((1, 2)), np.full((1, 2), False))
    assert nothing.tolist() == [[0.0, 0.0]]


# ---------------------------------------------------------------- rewards and groups


def test_a_long_answer_loses_more_and_more() -> None:
    # of 20: free up to 16, then a quarter of the penalty for each token
    lost = [overlong(n, 20, 0.2, 2.0) for n in (3, 16, 17, 18, 20, 25)]
    assert lost == pytest.approx([0.0, 0.0, -0.5, -1.0, -2.0, -2.0])


def test_which_groups_are_worth_a_place() -> None:
    assert uninformative([1.0, 0.0, None]) == ""
    assert uninformative([0.5, 0.5]) == "all rewards are 0.5"
    assert uninformative([1.0]) == "all rewards are 1"
    assert uninformative([None]) == "no answer could be judged"
    between = (0.05, 0.95)
    assert uninformative([1.0, 0.0], between) == ""
    assert uninformative([1.0] * 24 + [0.0], between).startswith("mean reward 0.96 is not between")


# ---------------------------------------------------------------- micro-batches


def test_packed_micro_batches_count_no_padding() -> None:
    lengths = [5, 30, 7, 7, 12, 1, 30, 8]
    parts = micro_batches(lengths, 50, packed=True)
    assert sorted(i for part in parts for i in part) == list(range(8))
    assert parts == [[1, 4, 7], [6, 2, 3, 0, 5]]
    assert micro_batches([100, 3, 3], 10, packed=True) == [[0], [1, 2]]


def test_what_begins_alike_is_bundled_until_the_budget_is_full() -> None:
    beginnings = [(0, 0), (1, 0), (0, 6), (1, 5), (0, 6), (5, 0), (0, 6)]
    found, sizes = bundles([10, 8, 9, 5, 12, 30, 7], beginnings, 14)
    # the third of the first kind has no room: another bundle, which holds the beginning again
    assert found == [[0, 2], [1, 3], [4, 6], [5]]
    assert sizes == [10 + 3 + 1, 8 + 0 + 1, 12 + 1 + 1, 30]
    assert bundles([], [], 14) == ([], [])


def test_no_pass_outgrows_its_budget_for_what_is_shared() -> None:
    beginnings = [(0, 0)] + [(0, 100)] * 63
    # short answers to a long prompt: attention lays all of it for each of them
    found, sizes = bundles([102] * 64, beginnings, 408)
    assert [len(bundle) for bundle in found] == [8] * 8
    assert sizes == [408] * 8
    # kernels that read it where it lies do not: it is what lies there, and what is predicted
    found, sizes = bundles([102] * 64, beginnings, 408, copied=False)
    assert sizes == [102 + 63 * 3]
    # answers of one token, none of which is read: each is predicted
    found, sizes = bundles([4] * 64, [(0, 0)] + [(0, 4)] * 63, 32, copied=False)
    assert [len(bundle) for bundle in found] == [29, 29, 6]


def test_first_fit_uses_few_parts() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4, 0.8, 500), 1, 400).astype(int).tolist()
    parts = micro_batches(lengths, 1000, packed=True)
    assert all(sum(lengths[i] for i in part) <= 1000 for part in parts)
    assert len(parts) <= 1 + 1.05 * sum(lengths) / 1000


def test_micro_batches_hold_everything_once_under_the_budget() -> None:
    lengths = [5, 30, 7, 7, 12, 1, 30, 8]
    parts = micro_batches(lengths, 32)
    assert sorted(i for part in parts for i in part) == list(range(8))
    assert all(max(lengths[i] for i in p) * len(p) <= 32 for p in parts)
    assert parts[:2] == [[1], [6]]


def test_a_sequence_over_the_budget_goes_alone() -> None:
    assert micro_batches([100, 3, 3], 10) == [[0], [1, 2]]
    assert micro_batches([], 10) == []
