"""Putting groups together: samples and closings in any order and number become whole groups.

A group is whole when the closing that says how many samples it has and that many different samples
are there, judged or not. The first copy of a sample wins. What belongs to a ticket that is whole,
trained or ended is a duplicate and changes nothing. A closing with no samples says that the ticket
could not be answered; what had arrived of it by then is no group to learn from. Such a ticket, and
one of which no sample could be judged, is set aside with the reason.

A derived ticket that was issued twice may have asked two things: answers to different parents are
groups of their own, and the one that is whole first is the ticket's.

Decides without IO; whether a ticket is still wanted is asked of the ledger, through the function
handed in. Called by the trainer's store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from realnet.errors import RealnetError
from realnet.roles.messages import Group, GroupClosed, Scored, TicketKey


class Hopeless(NamedTuple):
    """A group that is complete and of no use."""

    ticket: int
    reason: str


class _Open:
    """A group that is coming together."""

    def __init__(self, key: TicketKey) -> None:
        self.key = key
        self.samples: dict[int, Scored] = {}
        self.closed: GroupClosed | None = None


class Assembly:
    """The groups of one policy between arrival and training."""

    def __init__(self, policy: str, wanted: Callable[[int], bool]) -> None:
        self.policy = policy
        self.duplicates = 0  # samples and closings that changed nothing
        self._wanted = wanted
        self._open: dict[int, dict[str, _Open]] = {}  # ticket -> parent -> its group
        self._whole: dict[int, Group] = {}

    def add(self, scored: Scored) -> Group | Hopeless | None:
        """Take in one sample; return its group when that makes it whole."""
        key = scored.rollout.key
        group = self._group(key.ticket)
        if group is None or key.sample in group.samples:
            self.duplicates += 1
            return None
        group.samples[key.sample] = scored
        return self._finish(group)

    def close(self, closed: GroupClosed) -> Group | Hopeless | None:
        """Take in a closing; return the group when that makes it whole. The first closing wins."""
        group = self._group(closed.key)
        if group is None or group.closed is not None:
            self.duplicates += 1
            return None
        group.closed = closed
        return self._finish(group)

    def forget(self, ticket: int) -> None:
        """Let go of everything about this ticket: it was trained, ended, or is to be redone."""
        self._open.pop(ticket, None)
        self._whole.pop(ticket, None)

    # ------------------------------------------------------------ looking

    @property
    def ready(self) -> int:
        """How many whole groups wait to be trained with."""
        return len(self._whole)

    def oldest(self, count: int) -> list[Group]:
        """Return up to `count` whole groups, those issued first; they stay until forgotten."""
        return [self._whole[ticket] for ticket in sorted(self._whole)[:count]]

    def whole(self, ticket: int) -> Group | None:
        """Return the group of a ticket when it is whole."""
        return self._whole.get(ticket)

    def partial(self) -> dict[int, int]:
        """Return, for every ticket that is coming together, how many samples are there."""
        return {
            ticket: max(len(group.samples) for group in groups.values())
            for ticket, groups in sorted(self._open.items())
        }

    # ------------------------------------------------------------ inside

    def _group(self, key: TicketKey) -> _Open | None:
        if key.policy != self.policy or key.parent.startswith("eval:"):
            raise RealnetError(
                f"ticket {key} came to the trainer of {self.policy}, which takes those that it "
                "issued: is a wire connected to the wrong trainer?"
            )
        if key.ticket in self._whole or not self._wanted(key.ticket):
            return None
        return self._open.setdefault(key.ticket, {}).setdefault(key.parent, _Open(key))

    def _finish(self, group: _Open) -> Group | Hopeless | None:
        closed, ticket = group.closed, group.key.ticket
        if closed is None or len(group.samples) < closed.samples:
            return None
        del self._open[ticket]
        # A driver that gave up leaves the answers that came quickly: not a fair draw of them all.
        kept = sorted(group.samples) if closed.samples else ()
        scored = tuple(group.samples[n] for n in kept)
        if not any(s.reward is not None for s in scored):
            return Hopeless(ticket, _why(closed, scored))
        made = Group(group.key, scored)
        self._whole[ticket] = made
        return made


def _why(closed: GroupClosed, scored: tuple[Scored, ...]) -> str:
    if not scored:
        return closed.reason or "closed without a sample"
    faults = Counter(s.fault or "no reason given" for s in scored)
    fault, count = faults.most_common(1)[0]
    return f"no sample could be judged: {fault} ({count} of {len(scored)})"
