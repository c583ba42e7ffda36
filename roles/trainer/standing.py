"""How each task goes of late, for a curriculum: the mean reward of its newest groups.

A standing is entered with the tickets that are issued next, in the same record of the journal. So
what a curriculum knew when it dealt a ticket is as durable as the ticket: whoever replays the
journal, or asks for the history, deals every ticket as it was dealt. What a standing is counted
from need not be: a trainer that resumes counts anew and goes on from the last one.

Decides without IO. Called by the store.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

import msgspec

from realnet.roles.messages import Group, Standing

NEWEST = 64  # groups of a task that its mean is taken over
LEAST = 0.01  # a task must have moved by so much, or all stands as before
_DIGITS = 4


class Standings:
    """The standings of a run so far, and what the next one would say."""

    def __init__(self) -> None:
        self.history: list[Standing] = []
        self._newest: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=NEWEST))
        self._step = -1  # of the last standing: one a version at most

    def add(self, group: Group) -> None:
        """Count a whole group. Answers without a reward count for nothing."""
        rewards = [s.reward for s in group.scored if s.reward is not None]
        if rewards:
            self._newest[group.scored[0].rollout.task].append(sum(rewards) / len(rewards))

    def due(self, step: int) -> dict[str, float]:
        """Return the mean reward of each task when that is news at this step; empty: it is not."""
        before = self.history[-1].rewards if self.history else {}
        if step == self._step:
            return {}
        now = dict(before)
        now |= {n: round(sum(d) / len(d), _DIGITS) for n, d in sorted(self._newest.items()) if d}
        moved = [n for n in now if n not in before or abs(now[n] - before[n]) >= LEAST]
        return now if moved else {}

    def enter(self, first: int, rewards: Mapping[str, float], step: int) -> None:
        """Tickets from `first` on are dealt with this standing; one that is known stays."""
        if not self.history or first > self.history[-1].first:
            self.history.append(Standing(first, dict(rewards)))
            self._step = step

    def snapshot(self) -> bytes:
        """Return the history, for a checkpoint."""
        return msgspec.msgpack.encode([(one.first, one.rewards) for one in self.history])

    def restore(self, data: bytes) -> None:
        """Take the history of a checkpoint."""
        rows = msgspec.msgpack.decode(data, type=list[tuple[int, dict[str, float]]])
        self.history = [Standing(first, rewards) for first, rewards in rows]
