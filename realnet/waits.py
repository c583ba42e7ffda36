"""Every wait has a name: who waits, on what, on whom, since when.

Knows nothing of actors or sockets; the clock is handed in. The ports and `Actor.waiting` enter
their waits here; every beat carries the longest ones to the head, which shows and reports them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Wait(NamedTuple):
    """One wait that is going on. `whom` are the actors that could end it, if that is known."""

    who: str
    on: str
    since_s: float
    whom: tuple[str, ...] = ()


class Waits:
    """The waits of one process."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._open: dict[int, Wait] = {}
        self._next = 0

    @contextlib.contextmanager
    def on(self, who: str, what: str, whom: tuple[str, ...] = ()) -> Iterator[None]:
        """Name a wait for as long as the block lasts."""
        self._next += 1
        token = self._next
        self._open[token] = Wait(who, what, self._now(), whom)
        try:
            yield
        finally:
            del self._open[token]

    def of(self, who: str) -> list[tuple[str, float, tuple[str, ...]]]:
        """What this actor waits for, how many seconds, on whom; longest first, equal ones once."""
        now = self._now()
        longest: dict[str, tuple[float, tuple[str, ...]]] = {}
        for wait in self._open.values():
            if wait.who == who:
                age_s = now - wait.since_s
                if age_s >= longest.get(wait.on, (-1.0, ()))[0]:
                    longest[wait.on] = (age_s, wait.whom)
        found = [(on, age_s, whom) for on, (age_s, whom) in longest.items()]
        return sorted(found, key=lambda wait: -wait[1])
