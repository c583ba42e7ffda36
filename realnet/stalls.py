"""Who makes no progress, decided without IO: counts come in with the beats, stalls go out.

Progress is anything that an instance brings to an end (an item, an answer, a compute call) or says
itself (`self.progress`). One that has work, or waits, and shows none of it within its budget is
stalled; one with nothing to do is not. A stall is told once; progress ends it. The run as a whole
has a budget too: nothing ended anywhere, nobody came or went.

Knows nothing of what the counts count, nor of clocks. Called by `head.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Stalled(NamedTuple):
    """Effect: an instance (or the run, if `name` is empty) has made no progress for so long."""

    name: str
    quiet_s: float


@dataclass
class _Seen:
    budget_s: float
    since_s: float
    count: int = -1
    told: bool = False


class Stalls:
    """The budgets of one run. Times are monotonic seconds of one clock; a budget of 0 is none."""

    def __init__(self, run_budget_s: float, now_s: float):
        self._seen: dict[str, _Seen] = {}
        self._run = _Seen(run_budget_s, now_s)

    def watch(self, name: str, budget_s: float, now_s: float) -> None:
        """An instance begins."""
        self._seen[name] = _Seen(budget_s, now_s)
        self.moved(now_s)

    def forget(self, name: str) -> None:
        """It is dead or was stopped."""
        self._seen.pop(name, None)

    def moved(self, now_s: float) -> None:
        """Something happened in the run."""
        self._run.since_s, self._run.told = now_s, False

    def beat(self, name: str, count: int, has_work: bool, now_s: float) -> None:
        """An instance has brought so many things to an end since it began."""
        seen = self._seen.get(name)
        if seen is None:
            return
        if count != seen.count:
            seen.count = count
            self.moved(now_s)
        elif has_work:
            return
        seen.since_s, seen.told = now_s, False

    def away(self, seconds: float, now_s: float) -> None:
        """The watcher itself stood still: it could hear of nothing."""
        for seen in (self._run, *self._seen.values()):
            seen.since_s = min(seen.since_s + seconds, now_s)

    def tick(self, now_s: float) -> list[Stalled]:
        """Look at everybody. Each stall is told once."""
        effects = []
        for name, seen in (*self._seen.items(), ("", self._run)):
            quiet_s = now_s - seen.since_s
            if seen.budget_s and quiet_s >= seen.budget_s and not seen.told:
                seen.told = True
                effects.append(Stalled(name, quiet_s))
        return effects
