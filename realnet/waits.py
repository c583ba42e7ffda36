"""Every wait has a name: who waits, on what, on whom, since when.

Knows nothing of actors or sockets; the clock is handed in. The ports and `Actor.waiting` enter
their waits here; every beat carries the longest ones to the head, which shows and reports them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class Wait(NamedTuple):
    """One wait that is going on. `whom` are the actors that could end it, if that is known."""

    who: str
    on: str
    since_s: float
    whom: tuple[str, ...] = ()
    background: bool = False  # nothing is held up by it: told after the others


class _Open:
    """The block of one wait. A class, since a generator would cost more than the wait's name."""

    __slots__ = ("_token", "_wait", "_waits")

    def __init__(self, waits: dict[int, Wait], token: int, wait: Wait):
        self._waits, self._token, self._wait = waits, token, wait

    def __enter__(self) -> None:
        self._waits[self._token] = self._wait

    def __exit__(self, *error: object) -> None:
        del self._waits[self._token]


class Waits:
    """The waits of one process.

    `sources` tell, by actor, of waits that are kept elsewhere anyway (open calls): naming each of
    those here would cost as much as the call.
    """

    def __init__(self, now: Callable[[], float]):
        self.now = now
        self.sources: dict[str, Callable[[], Iterable[Wait]]] = {}
        self._open: dict[int, Wait] = {}
        self._next = 0

    def __iter__(self) -> Iterator[Wait]:
        yield from self._open.values()
        for source in self.sources.values():
            yield from source()

    def on(
        self, who: str, what: str, whom: tuple[str, ...] = (), background: bool = False
    ) -> _Open:
        """Name a wait for as long as the block lasts: `with waits.on(...)`."""
        self._next += 1
        return _Open(self._open, self._next, Wait(who, what, self.now(), whom, background))

    def hold_up(self, who: str) -> bool:
        """Tell whether this actor waits for anything that is not in the background."""
        own = self.sources.get(who)
        waits = (*self._open.values(), *(own() if own is not None else ()))
        return any(w.who == who and not w.background for w in waits)

    def of(self, who: str) -> list[tuple[str, float, tuple[str, ...]]]:
        """What this actor waits for, how many seconds, on whom; longest first, equal ones once;
        those in the background come last.
        """
        now = self.now()
        longest: dict[str, tuple[float, tuple[str, ...]]] = {}
        behind: set[str] = set()
        own = self.sources.get(who)
        for wait in (*self._open.values(), *(own() if own is not None else ())):
            if wait.who == who:
                age_s = now - wait.since_s
                if age_s >= longest.get(wait.on, (-1.0, ()))[0]:
                    longest[wait.on] = (age_s, wait.whom)
                if wait.background:
                    behind.add(wait.on)
        found = [(on, age_s, whom) for on, (age_s, whom) in longest.items()]
        return sorted(found, key=lambda wait: (wait[0] in behind, -wait[1]))
