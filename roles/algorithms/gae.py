"""Generalised advantage estimation: advantages from a critic's values, token by token.

A function only: this build trains no critic. Knows arrays; imports no torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from realnet.roles.algorithms.advantages import Array


def gae(
    rewards: Array,
    values: Array,
    written: npt.NDArray[np.bool_],
    discount: float = 1.0,
    smoothing: float = 1.0,
    after: Array | None = None,
) -> tuple[Array, Array]:
    """Return (advantages [n, L], returns [n, L]); zeros where nothing was written.

    Shapes: rewards, values [n, L]; written [n, L], True where the policy wrote the token; `after`
    [n], the value of what follows the last token of a cut-off answer (zeros: the answers ended).
    Legend: n answers, L tokens of the longest.

    delta_t = r_t + discount V_{t+1} - V_t;  A_t = delta_t + discount * smoothing * A_{t+1};
    return_t = A_t + V_t, where t + 1 is the next token that the policy wrote: what a tool said in
    between takes no time. A reward on a token that the policy did not write goes to the last one
    before it that it did write, or to the first one after it: no reward is lost.
    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 11-16.
    """
    if not rewards.shape == values.shape == written.shape:
        raise ValueError(f"shapes differ: {rewards.shape}, {values.shape}, {written.shape}")
    earned = _move_to_written(rewards, written)
    n, length = rewards.shape
    following = np.zeros(n) if after is None else after.astype(np.float64)
    running = np.zeros(n)
    advantages = np.zeros((n, length))
    for t in range(length - 1, -1, -1):
        here = written[:, t]
        delta = earned[:, t] + discount * following - values[:, t]
        running = np.where(here, delta + discount * smoothing * running, running)
        following = np.where(here, values[:, t], following)
        advantages[:, t] = np.where(here, running, 0.0)
    return advantages, np.where(written, advantages + values, 0.0)


def _move_to_written(rewards: Array, written: npt.NDArray[np.bool_]) -> Array:
    """Return rewards that stand on written tokens only; a row without any has none."""
    n, length = rewards.shape
    at = np.where(written, np.arange(length), -1)
    before = np.maximum.accumulate(at, axis=1)
    first = np.where(written.any(axis=1), written.argmax(axis=1), 0)[:, None]
    target = np.where(before < 0, first, before)
    moved = np.zeros((n, length))
    np.add.at(moved, (np.arange(n)[:, None], target), rewards)
    result: Array = np.where(written, moved, 0.0)
    return result
