"""From rewards to advantages: how much better was this answer than the others.

Groups are found by their key, never by position, so a group may have any size. A reward of None
(nobody could judge the answer) is left out of all statistics and gets advantage 0: no gradient.
Under the rules that compare inside groups, groups of one and groups of equal rewards teach nothing
and get exact zeros.

Knows nothing of tokens or losses, and imports no torch. Called by `credit`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Kind = Literal["grpo", "dr_grpo", "rloo"]

EPSILON = 1e-6
_VARIANCE = 1e-8  # added under the root when a whole batch is standardised


def advantages(keys: Sequence[Hashable], rewards: Sequence[float | None], kind: Kind) -> Array:
    """Return the advantage of each answer. Shapes: keys [n], rewards [n] -> [n].

    `keys` name the group of each of the n answers, in any order.
    """
    result = np.zeros(len(keys))
    for judged in judged_groups(keys, rewards):
        values = np.array([rewards[i] for i in judged], dtype=np.float64)
        if not equal(values):
            result[judged] = _RULES[kind](values)
    return result


def equal_groups(keys: Sequence[Hashable], rewards: Sequence[float | None]) -> tuple[int, int]:
    """Return (number of groups, how many of them have nothing to compare)."""
    groups = judged_groups(keys, rewards)
    values = [np.array([rewards[i] for i in judged], dtype=np.float64) for judged in groups]
    return len(groups), sum(equal(group) for group in values)


def judged_groups(keys: Sequence[Hashable], rewards: Sequence[float | None]) -> list[list[int]]:
    """Return, group by group in the order of their first answers, where the judged answers are."""
    if len(keys) != len(rewards):
        raise ValueError(f"{len(keys)} group keys for {len(rewards)} rewards")
    members: dict[Hashable, list[int]] = {}
    for i, (key, reward) in enumerate(zip(keys, rewards, strict=True)):
        group = members.setdefault(key, [])
        if reward is not None:
            group.append(i)
    return list(members.values())


def equal(values: Array) -> bool:
    """Tell whether there is nothing to compare: fewer than two values, or all the same."""
    return len(values) < 2 or bool(values.min() == values.max())


def standardised(rewards: Array) -> Array:
    """Return (r - mean) / (std + 1e-6), std with n - 1. Shapes: [n] -> [n], n >= 2.

    Source: group relative policy optimisation, DeepSeekMath (arXiv 2402.03300), section 4.1.
    """
    result: Array = (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
    return result


def centred(rewards: Array) -> Array:
    """Return r - mean. Shapes: [n] -> [n].

    Source: Dr. GRPO (arXiv 2503.20783): dividing by the std weighs nearly solved and nearly
    hopeless prompts more than the others.
    """
    result: Array = rewards - rewards.mean()
    return result


def leave_one_out(rewards: Array) -> Array:
    """Return r_i - mean of the others. Shapes: [n] -> [n], n >= 2.

    Source: REINFORCE leave-one-out (Kool et al. 2019; arXiv 2402.14740): a baseline that the
    answer itself has no part in, so the estimate stays unbiased.
    """
    n = len(rewards)
    result: Array = rewards - (rewards.sum() - rewards) / (n - 1)
    return result


def whitened(values: Array) -> Array:
    """Return (a - mean) / sqrt(var + 1e-8) over a batch, var with T - 1; zeros when all equal.

    Shapes: [T] -> [T], T the tokens of all answers, so that a long answer weighs more.
    Source: REINFORCE++ (arXiv 2501.03262), global advantage normalisation.
    """
    if equal(values):
        return np.zeros_like(values)
    result: Array = (values - values.mean()) / np.sqrt(values.var(ddof=1) + _VARIANCE)
    return result


_RULES: dict[str, Callable[[Array], Array]] = {
    "grpo": standardised,
    "dr_grpo": centred,
    "rloo": leave_one_out,
}
