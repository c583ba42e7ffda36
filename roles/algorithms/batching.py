"""Micro-batches: which sequences go through the model together, under a budget of tokens.

Knows lengths only. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split sequences so that each part, right-padded to its longest, has at most `budget` tokens.

    First fit, longest first: a sequence joins the first part that has room, so parts hold similar
    lengths and padding is small. A sequence longer than the budget goes alone. Returns positions
    in `lengths`, each exactly once. The order of equal lengths is kept, so the result is a
    function of the input.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing; give 1 or more")
    parts: list[list[int]] = []
    widths: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for part, width in zip(parts, widths, strict=True):
            if width * (len(part) + 1) <= budget:
                part.append(i)
                break
        else:
            parts.append([i])
            widths.append(max(lengths[i], 1))
    return parts
