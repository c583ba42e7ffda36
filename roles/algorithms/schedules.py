"""The learning rate at a step, as a factor of the table's `lr`.

Pure functions of the step, so that a resumed run goes on as if it had not stopped. Called by the
learner.
"""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


def rate(step: int, shape: Shape, warm_up: int, horizon: int, end: float) -> float:
    """Return the factor at `step` (the first is 0).

    Rises evenly over `warm_up` steps, then stays ("constant") or falls to `end` at step
    `horizon`, along a line or half a cosine (arXiv 1608.03983, eq. 5, one period).
    """
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    if shape == "constant":
        return 1.0
    gone = min((step - warm_up) / max(horizon - warm_up, 1), 1.0)
    left = 1.0 - gone if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))
    return end + (1.0 - end) * left
