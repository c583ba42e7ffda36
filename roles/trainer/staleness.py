"""Which buffered groups are too old.

`stale`: after a rollback. The steps that a death undid had made versions that wrote tokens; those
versions are gone, and their tokens count from the fork. Unless `over_age = "allow"`, a group whose
every token is too old when its turn comes would be a step without gradient: it is better answered
again. `over_age`: those in which some token is too old at their turn.

`Lateness`: which of these are to go, by `over_age`.

Decides without IO. Called by the trainer's store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from realnet.roles.ledger import Lineage
from realnet.roles.messages import Group, Version
from realnet.roles.tables import Policy

REQUEUES = 2  # how often a ticket whose group came too late is answered again


def stale(
    groups: Sequence[Group], lineage: Lineage, at: Version, policy: Policy
) -> tuple[int, ...]:
    """Return the tickets of the useless ones among `groups`, given in the order of training.

    `at` is the version that the next step starts from.
    """
    if policy.over_age == "allow":
        return ()
    found: list[int] = []
    kept = 0
    for group in groups:
        turn = Version(at.policy, at.branch, at.number + kept // policy.batch)
        if _youngest(group, lineage, turn) > policy.max_age:
            found.append(group.key.ticket)
        else:
            kept += 1
    return tuple(found)


def over_age(
    groups: Sequence[Group], lineage: Lineage, at: Version, max_age: int
) -> tuple[int, ...]:
    """Return the tickets of groups with a token that is too old for a step from version `at`."""
    return tuple(g.key.ticket for g in groups if max(_ages(g, lineage, at), default=0) > max_age)


class Lateness:
    """What `over_age` does about groups that come too late, and how often it did."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.requeued = 0  # tickets that went out again
        self._often: Counter[int] = Counter()  # how often each open one did

    def going(self, groups: Sequence[Group], lineage: Lineage, at: Version) -> tuple[int, ...]:
        """Return the tickets that are to be dropped, or answered again, before a step from `at`.

        A ticket that went out `REQUEUES` times is trained with, its old tokens masked: one whose
        answers always take long must not go round for ever.
        """
        if self.policy.over_age not in ("requeue", "drop"):
            return ()
        old = over_age(groups, lineage, at, self.policy.max_age)
        if self.policy.over_age == "drop":
            return old
        again = tuple(ticket for ticket in old if self._often[ticket] < REQUEUES)
        self._often.update(again)
        self.requeued += len(again)
        return again

    def trained(self, tickets: Sequence[int]) -> None:
        """Forget tickets that are done."""
        for ticket in tickets:
            self._often.pop(ticket, None)


def _youngest(group: Group, lineage: Lineage, current: Version) -> int:
    """Return the age of the youngest token that a model wrote, or 0 when there is none."""
    return min(_ages(group, lineage, current), default=0)


def _ages(group: Group, lineage: Lineage, current: Version) -> list[int]:
    """Return the ages of the spans that a model wrote to be learnt from."""
    return [
        lineage.age(span.version, current)
        for scored in group.scored
        for segment in scored.rollout.segments
        for span in segment.spans
        if segment.learn and span.length
    ]
