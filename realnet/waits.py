"""Every wait has a name: who waits, on what, since when.

Knows nothing of actors or sockets; the clock is handed in. The ports and `Actor.waiting` enter
their waits here; every beat carries the longest ones to the head, which shows and reports them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Wait(NamedTuple):
    """One wait that is going on."""

    who: str
    on: str
    since_s: float


class Waits:
    """The waits of one process."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._open: dict[int, Wait] = {}
        self._next = 0

    @contextlib.contextmanager
    def on(self, who: str, what: str) -> Iterator[None]:
        """Name a wait for as long as the block lasts."""
        self._next += 1
        token = self._next
        self._open[token] = Wait(who, what, self._now())
        try:
            yield
        finally:
            del self._open[token]

    def of(self, who: str) -> list[tuple[str, float]]:
        """What this actor waits for and for how many seconds, longest first, equal ones once."""
        now = self._now()
        longest: dict[str, float] = {}
        for wait in self._open.values():
            if wait.who == who:
                longest[wait.on] = max(longest.get(wait.on, 0.0), now - wait.since_s)
        return sorted(longest.items(), key=lambda item: -item[1])
