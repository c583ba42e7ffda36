"""Which slot of an arena is written next, decided without IO.

Called by the parameter server and by relays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable


def choose_slot(
    slots: Iterable[int],
    held: Collection[int],
    generation: Callable[[int], int],
    leased: Callable[[int], bool],
    age: Callable[[int], tuple[int, int]],
) -> int:
    """Return the slot to write next: never that of the newest version.

    Empty ones first, then that of the oldest version; one with a reader only when all have one,
    since a reader that lags must not hold up who writes.
    """
    free = [s for s in slots if s not in held]
    if free:
        return min(free, key=lambda s: (leased(s), generation(s), s))
    old = sorted(held, key=age)[:-1]
    return min(old, key=lambda s: (leased(s), age(s)))
