"""Seeded orders that need no list: a shuffle of n items, and a mix of tasks by weight.

Both are pure functions of their seed, so a ticket's number alone says its problem: a restarted
prompter, an evaluator or a person with a notebook finds the same one. Knows nothing of files or
tasks. Called by `dataset.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_ROUNDS = 4
_MAX_BLOCK = 1000
_SHARE_ERROR = 1e-3


def derive(*parts: int | str) -> int:
    """Return a 63-bit number that depends on all parts; the way seeds are made from seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shuffled(index: int, n: int, seed: int) -> int:
    """Return where `index` goes in a seeded shuffle of range(n); a bijection of range(n).

    A small Feistel network over the next even number of bits, walked until it lands below n: no
    list of n entries is kept, which is what lets an epoch cost no memory.
    """
    if not 0 <= index < n:
        raise ValueError(f"index {index} is not in range({n})")
    if n == 1:
        return 0
    half = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_scramble(right, seed, turn) & mask)
        value = (left << half) | right
        if value < n:
            return value


def _scramble(value: int, seed: int, turn: int) -> int:
    """Mix three integers into 64 bits (multiply and xor-shift; not for secrets)."""
    x = (value * 0x9E3779B97F4A7C15 + seed * 0xBF58476D1CE4E5B9 + turn * 0x94D049BB133111EB + 1) & (
        (1 << 64) - 1
    )
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
    return x ^ (x >> 31)


class Mix:
    """Deals an endless count 0, 1, 2 ... to several tasks by weight.

    The count is cut into blocks. Each block holds every task in proportion, in a seeded order, so
    the shares are exact over a block and nothing has to be remembered between calls.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Raises ValueError when there is nothing to mix."""
        if not weights or min(weights) <= 0:
            raise ValueError("a mix needs at least one task, each with a weight over 0")
        self._seed = seed
        self.shares = _block_counts(weights)
        self._block = sum(self.shares)

    def __call__(self, k: int) -> tuple[int, int]:
        """Return (which task, how many of that task came before in this order) for the k-th."""
        block, place = divmod(k, self._block)
        place = shuffled(place, self._block, derive(self._seed, "mix", block))
        for task, share in enumerate(self.shares):
            if place < share:
                return task, block * share + place
            place -= share
        raise AssertionError("unreachable: the shares sum to the block")


def _block_counts(weights: Sequence[float]) -> list[int]:
    """Return how many of each task the smallest block holds that keeps the shares right."""
    total = sum(weights)
    for size in range(len(weights), _MAX_BLOCK + 1):
        exact = [weight / total * size for weight in weights]
        counts = [max(1, round(x)) for x in exact]
        if all(abs(c - x) <= _SHARE_ERROR * size for c, x in zip(counts, exact, strict=True)):
            return counts
    return [max(1, round(weight / total * _MAX_BLOCK)) for weight in weights]
