"""How much each token's loss counts in the mean that is minimised.

Shares are of a whole minibatch, whatever micro-batches or ranks it is cut into: adding up their
gradients gives the same. Knows counts only. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Normalise = Literal["tokens", "sequences", "constant"]


def token_scale(
    counts: Sequence[int], normalise: Normalise, constant: int
) -> tuple[list[float], float]:
    """Return (factor of each answer's token losses, what their sum is divided by).

    `counts` [n] are the learnable tokens of each answer of the whole minibatch, masked ones
    included: masking never makes the other tokens weigh more. "tokens": every token weighs the
    same (DAPO, arXiv 2503.14476, eq. 8). "sequences": every answer weighs the same, each the mean
    of its tokens (GRPO, arXiv 2402.03300, eq. 3). "constant": every token weighs 1 / constant and
    every answer is divided by n (Dr. GRPO, arXiv 2503.20783). Answers without a token do not count.
    """
    filled = sum(1 for count in counts if count)
    if normalise == "tokens":
        return [1.0] * len(counts), float(max(sum(counts), 1))
    if normalise == "sequences":
        return [1.0 / max(count, 1) for count in counts], float(max(filled, 1))
    return [1.0] * len(counts), float(max(filled, 1) * max(constant, 1))
