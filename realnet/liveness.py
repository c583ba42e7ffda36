"""Who is alive, decided without IO: beats come in, suspicions and deaths go out.

A beat is sent by the actor loop itself, so a frozen loop and a stopped process are both seen; a
long compute step is not, since it runs in a thread beside the loop. ZeroMQ's own heartbeats are
answered by its io thread whatever the loop does, so they cannot tell.

Knows nothing of processes or sockets. Called by `head.py` with the head's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

BEAT_S = 0.25  # how often every process tells the head that it lives


class Suspected(NamedTuple):
    """Effect: silent for too long; say so, do nothing yet."""

    name: str
    silent_s: float


class Recovered(NamedTuple):
    """Effect: a suspected one beats again."""

    name: str
    silent_s: float


class Hung(NamedTuple):
    """Effect: silent beyond hope; kill and restart it."""

    name: str
    silent_s: float


@dataclass
class _Seen:
    last_s: float
    suspected: bool = False


class Beats:
    """Watches a set of names that ought to beat. Times are monotonic seconds of one clock."""

    def __init__(self, suspect_after_s: float = 3.0, hung_after_s: float = 10.0):
        self.suspect_after_s = suspect_after_s
        self.hung_after_s = hung_after_s
        self._seen: dict[str, _Seen] = {}

    def watch(self, name: str, now_s: float) -> None:
        """From now on this name is expected to beat."""
        self._seen[name] = _Seen(now_s)

    def forget(self, name: str) -> None:
        """It is dead or was stopped: expect nothing more."""
        self._seen.pop(name, None)

    def beat(self, name: str, now_s: float) -> list[Recovered]:
        """A beat came in; beats of names that are not watched are late ones."""
        seen = self._seen.get(name)
        if seen is None:
            return []
        silent_s, was = now_s - seen.last_s, seen.suspected
        seen.last_s, seen.suspected = now_s, False
        return [Recovered(name, silent_s)] if was else []

    def away(self, seconds: float, now_s: float) -> None:
        """The watcher itself stood still (a stopped host, a frozen VM): it could hear nobody."""
        for seen in self._seen.values():
            seen.last_s = min(seen.last_s + seconds, now_s)

    def tick(self, now_s: float) -> list[Suspected | Hung]:
        """Look at everybody. Each suspicion and each death is told once."""
        effects: list[Suspected | Hung] = []
        for name, seen in list(self._seen.items()):
            silent_s = now_s - seen.last_s
            if silent_s >= self.hung_after_s:
                del self._seen[name]
                effects.append(Hung(name, silent_s))
            elif silent_s >= self.suspect_after_s and not seen.suspected:
                seen.suspected = True
                effects.append(Suspected(name, silent_s))
        return effects
