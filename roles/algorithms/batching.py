"""Micro-batches: which sequences go through the model together, under a budget of tokens.

Knows lengths only. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Sequence

_COPIES = 2  # tokens that attention may copy for each that a budget allows


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
    lengths: Sequence[int],
    beginnings: Sequence[tuple[int, int]],
    budget: int,
    *,
    copied: bool = True,
) -> tuple[list[list[int]], list[int]]:
    """Put sequences that share their beginning together; return bundles, and the size of each.

    `beginnings` are (of, length): the first `length` tokens are those of sequence `of`, and lie
    once in a bundle. A bundle is as large as the tokens that lie in it, and one for each sequence
    that shares: as many are predicted of it as are its own, and one. Where attention makes copies
    of what it reads (`copied`), a bundle is at least as large as all its sequences, whole, over
    _COPIES: they are what memory goes to where long prompts have short answers. A bundle that would
    be larger than `budget` is closed, and the next holds the beginning again. Each position in
    `lengths` is in one bundle.
    """
    found: list[list[int]] = []
    filled: list[tuple[int, int]] = []  # of each: tokens in it, and of its sequences one by one
    open_: dict[int, int] = {}  # bundle that the next sequence with this beginning joins

    def size(laid: int, whole: int) -> int:
        return max(laid, -(-whole // _COPIES)) if copied else laid

    for i, (of, shared) in enumerate(beginnings):
        b = open_.get(of, -1)
        if b >= 0:
            laid, whole = filled[b]
            after = laid + lengths[i] - shared + 1, whole + lengths[i]
            if size(*after) <= budget:
                found[b].append(i)
                filled[b] = after
                continue
        open_[of] = len(found)
        found.append([i])
        filled.append((lengths[i], lengths[i]))
    return found, [size(*both) for both in filled]


def _full(
    parts: list[list[int]], filled: list[int], p: int, shortest: int, budget: int, packed: bool
) -> bool:
    """Tell whether not even the shortest sequence would fit into a part."""
    if packed:
        return filled[p] + shortest > budget
    return filled[p] * (len(parts[p]) + 1) > budget
