"""From rewards to advantages: how much better was this answer than the others to the same prompt.

Groups are found by their key, never by position, so a group may have any size. A reward of None
(nobody could judge the answer) is left out of its group's statistics and gets advantage 0: no
gradient. Groups of one and groups of equal rewards teach nothing and get exact zeros.

Knows nothing of tokens or losses, and imports no torch. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Kind = Literal["grpo", "dr_grpo", "rloo"]

EPSILON = 1e-6


def advantages(
    keys: Sequence[Hashable], rewards: Sequence[float | None], kind: Kind
) -> tuple[Array, int, int]:
    """Return (advantages [n], number of groups, number of groups that teach nothing).

    `keys` [n] name the group of each of the n answers, in any order; `rewards` [n]. A group
    without a judged answer counts as one that teaches nothing.
    """
    if len(keys) != len(rewards):
        raise ValueError(f"{len(keys)} group keys for {len(rewards)} rewards")
    members: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    result = np.zeros(len(keys))
    flat = 0
    for group in members.values():
        judged = [i for i in group if rewards[i] is not None]
        values = np.array([rewards[i] for i in judged], dtype=np.float64)
        if len(judged) < 2 or values.min() == values.max():
            flat += 1
            continue
        result[judged] = _RULES[kind](values)
    return result, len(members), flat


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


_RULES: dict[str, Callable[[Array], Array]] = {
    "grpo": standardised,
    "dr_grpo": centred,
    "rloo": leave_one_out,
}
