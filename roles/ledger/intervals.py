"""Sets of ticket numbers as sorted, half-open intervals: a million finished tickets are one pair.

Knows nothing of tickets. Used by the ledger and by whoever sends sets of tickets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """A set of integers, kept as disjoint half-open intervals that do not touch."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._count = 0
        for start, end in pairs:
            self.add_range(start, end)

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Intervals:
        """Return the set of these numbers."""
        made = cls()
        for number in numbers:
            made.add_range(number, number + 1)
        return made

    def add(self, number: int) -> None:
        """Put one number in."""
        self.add_range(number, number + 1)

    def add_range(self, start: int, end: int) -> None:
        """Put start .. end-1 in, joining what then touches."""
        if start >= end:
            return
        left = bisect_right(self._ends, start - 1)  # the first interval that ends at start or later
        right = bisect_right(self._starts, end)  # past the last interval that begins by end
        if left < right:
            start = min(start, self._starts[left])
            end = max(end, self._ends[right - 1])
            self._count -= sum(
                e - s for s, e in zip(self._starts[left:right], self._ends[left:right], strict=True)
            )
        self._starts[left:right] = [start]
        self._ends[left:right] = [end]
        self._count += end - start

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Return the intervals in order."""
        return tuple(zip(self._starts, self._ends, strict=True))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __iter__(self) -> Iterator[int]:
        for start, end in self.pairs():
            yield from range(start, end)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and self.pairs() == other.pairs()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Intervals({list(self.pairs())})"
