"""Micro-batches over ranks: all of them, once, and nobody idle who could help."""

from __future__ import annotations

import random

import pytest

from realnet.roles.algorithms.batching import micro_batches
from realnet.roles.trainer.fsdp.deal import deal


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_every_answer_is_dealt_once_and_within_the_budget(ranks: int, seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 60))]
    parts = micro_batches(lengths, 64, packed=True)
    rounds = deal(parts, lengths, ranks)
    assert all(len(one) == ranks for one in rounds)
    dealt = [part for one in rounds for part in one]
    assert sorted(i for part in dealt for i in part) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in part) <= 64 for part in dealt)
    assert len(rounds) == -(-len(parts) // ranks), "not one pass more than needed"
    empty = [k for k, part in enumerate(dealt) if not part]
    assert not empty or len(dealt) - len(empty) == len(lengths), "idle only if nothing can be cut"
    assert empty == list(range(len(dealt) - len(empty), len(dealt)))


def test_rounds_hold_parts_of_like_size_and_the_largest_is_halved() -> None:
    lengths = [30, 30, 8, 8, 8, 8, 8, 8, 8, 8]
    rounds = deal([[0, 1], [2, 3, 4], [5, 6, 7, 8, 9]], lengths, 2)
    assert [[sum(lengths[i] for i in part) for part in one] for one in rounds] == [
        [40, 30],
        [30, 24],
    ]


def test_one_long_answer_leaves_the_others_idle() -> None:
    assert deal([[0]], [100], 4) == [[[0], [], [], []]]
