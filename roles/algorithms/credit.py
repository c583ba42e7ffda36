"""Which token gets which advantage: rewards of answers, penalties of tokens, one rule.

An answer's reward belongs to the answer, wherever its last token that a model wrote stands: what a
tool or a user said after it takes nothing away. A penalty (the KL to a reference, in the reward)
belongs to its token.

Knows arrays, not records or models; imports no torch. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from realnet.roles.algorithms.advantages import (
    Array,
    advantages,
    centred,
    equal,
    judged_groups,
    whitened,
)

Rule = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]


def credit(
    keys: Sequence[Hashable],
    rewards: Sequence[float | None],
    penalties: Sequence[Array],
    rule: Rule,
) -> list[Array]:
    """Return the advantage of each token. Shapes: [n] of [T_i].

    Shapes: keys [n] (the group of each answer), rewards [n] (None: unscored), penalties [n] of
    [T_i], taken off the reward where they stand (zeros: none). Legend: n answers, T_i tokens of
    answer i that may carry gradient.

    "grpo", "dr_grpo", "rloo": the answer's reward less all its penalties is compared inside its
    group (`advantages`), and every token of the answer gets the same.
    "reinforce_pp": A_t = r - sum of the penalties from t on, whitened over all tokens of the batch;
    no groups. REINFORCE++ (arXiv 2501.03262), eq. 4-6, with discount 1.
    "reinforce_pp_baseline": reward less penalties less the mean of the group, then whitened over
    all tokens of the batch; same source, section "REINFORCE++-baseline".
    """
    if len(penalties) != len(rewards):
        raise ValueError(f"{len(penalties)} rows of penalties for {len(rewards)} rewards")
    scores = [
        None if reward is None else reward - float(taken.sum())
        for reward, taken in zip(rewards, penalties, strict=True)
    ]
    if rule in ("grpo", "dr_grpo", "rloo"):
        worth = advantages(keys, scores, rule)
        return [np.full(len(p), w) for p, w in zip(penalties, worth, strict=True)]
    if rule == "reinforce_pp":
        raw = [_to_go(r, taken) for r, taken in zip(rewards, penalties, strict=True)]
    else:
        raw = [np.zeros(len(taken)) for taken in penalties]
        for group in judged_groups(keys, scores):
            values = np.array([scores[i] for i in group], dtype=np.float64)
            if not equal(values):
                for i, value in zip(group, centred(values), strict=True):
                    raw[i] = np.full(len(penalties[i]), value)
    return _whiten(raw, rewards)


def _to_go(reward: float | None, penalties: Array) -> Array:
    """Return, for each token, the reward less the penalties from there to the end."""
    if reward is None:
        return np.zeros(len(penalties))
    result: Array = reward - np.cumsum(penalties[::-1])[::-1]
    return result


def _whiten(raw: list[Array], rewards: Sequence[float | None]) -> list[Array]:
    """Whiten the tokens of judged answers together; unscored ones keep zeros."""
    judged = [i for i, reward in enumerate(rewards) if reward is not None]
    result = [np.zeros_like(values) for values in raw]
    if judged:
        even = whitened(np.concatenate([raw[i] for i in judged]))
        cuts = np.cumsum([len(raw[i]) for i in judged])[:-1]
        for i, values in zip(judged, np.split(even, cuts), strict=True):
            result[i] = values
    return result
