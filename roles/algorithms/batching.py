"""Micro-batches: which sequences go through the model together, under a budget of tokens.

Knows lengths only. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], budget: int, *, packed: bool = False) -> list[list[int]]:
    """Split sequences so that each part has at most `budget` tokens.

    A part is as many tokens as its sequences have together (`packed`), or as it has right-padded
    to its longest. First fit, longest first: a sequence joins the first part that has room. When
    padded, parts hold similar lengths, and padding is small. A sequence longer than the budget goes
    alone. Returns positions in `lengths`, each exactly once. The order of equal lengths is kept, so
    the result is a function of the input.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing; give 1 or more")
    parts: list[list[int]] = []
    filled: list[int] = []  # of each part: tokens in it when packed, its longest when padded
    first_open = 0  # parts before it are full for every length that is still to come
    shortest = max(min(lengths, default=1), 1)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = max(lengths[i], 1)
        for p in range(first_open, len(parts)):
            after = filled[p] + length if packed else filled[p] * (len(parts[p]) + 1)
            if after <= budget:
                parts[p].append(i)
                filled[p] += length if packed else 0
                break
        else:
            parts.append([i])
            filled.append(length)
        while first_open < len(parts) and _full(
            parts, filled, first_open, shortest, budget, packed
        ):
            first_open += 1
    return parts


def bundles(
    lengths: Sequence[int], beginnings: Sequence[tuple[int, int]], budget: int
) -> tuple[list[list[int]], list[int]]:
    """Put sequences that share their beginning together; return bundles, and the tokens of each.

    `beginnings` are (of, length): the first `length` tokens are those of sequence `of`, and lie
    once in a bundle. A bundle that would have more than `budget` tokens is closed, and the next
    holds the beginning again. Each position in `lengths` is in one bundle.
    """
    found: list[list[int]] = []
    sizes: list[int] = []
    open_: dict[int, int] = {}  # bundle that the next sequence with this beginning joins
    for i, (of, shared) in enumerate(beginnings):
        more = lengths[i] - shared
        b = open_.get(of, -1)
        if b >= 0 and sizes[b] + more <= budget:
            found[b].append(i)
            sizes[b] += more
            continue
        open_[of] = len(found)
        found.append([i])
        sizes.append(lengths[i])
    return found, sizes


def _full(
    parts: list[list[int]], filled: list[int], p: int, shortest: int, budget: int, packed: bool
) -> bool:
    """Tell whether not even the shortest sequence would fit into a part."""
    if packed:
        return filled[p] + shortest > budget
    return filled[p] * (len(parts[p]) + 1) > budget
