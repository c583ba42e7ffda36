"""Which rank runs which micro-batch: rounds of one micro-batch a rank, alike in size.

All ranks go through the model together, so a round takes as long as its largest micro-batch. Knows
lengths only. Called by the leader's learner.
"""

from __future__ import annotations

from collections.abc import Sequence

Chosen = list[int]


def deal(parts: Sequence[Chosen], lengths: Sequence[int], ranks: int) -> list[list[Chosen]]:
    """Return rounds; each has one part for every rank, an empty one where there is no more.

    `parts` hold positions in `lengths`, each once, and so do the rounds. Where the last round would
    leave ranks idle, the largest parts are halved. The result is a function of the input.
    """
    if ranks == 1:
        return [[list(part)] for part in parts]
    pieces = [list(part) for part in parts if part]

    def size(part: Chosen) -> int:
        return sum(lengths[i] for i in part)

    while len(pieces) % ranks:
        largest = max((p for p in pieces if len(p) > 1), key=size, default=None)
        if largest is None:
            break
        pieces.remove(largest)
        pieces += _halves(largest, lengths)
    pieces.sort(key=lambda part: (-size(part), part))
    rounds = [pieces[k : k + ranks] for k in range(0, len(pieces), ranks)]
    return [group + [[] for _ in range(ranks - len(group))] for group in rounds]


def _halves(part: Chosen, lengths: Sequence[int]) -> list[Chosen]:
    """Split a part of two or more into two of about as many tokens, longest first."""
    halves: tuple[Chosen, Chosen] = ([], [])
    filled = [0, 0]
    for i in sorted(part, key=lambda i: (-lengths[i], i)):
        k = filled[1] < filled[0]
        halves[k].append(i)
        filled[k] += lengths[i]
    return list(halves)
