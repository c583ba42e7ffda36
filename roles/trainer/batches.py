"""Which groups are the next step's: those of a batch that was begun before, else the oldest.

A batch is planned in the journal before its step. A trainer that died in a step takes the same one
again, as long as all of its groups are whole.

Decides without IO. Called by the trainer's store.
"""

from __future__ import annotations

from collections.abc import Callable

from realnet.roles.messages import Group
from realnet.roles.tables import Policy
from realnet.roles.trainer.assembly import Assembly


class Batches:
    """The batches of one policy: `plans` are those begun, by step.

    `oldest(count)` returns the open tickets that were issued first.
    """

    def __init__(
        self, policy: Policy, assembly: Assembly, oldest: Callable[[int], list[int]]
    ) -> None:
        self.policy = policy
        self.plans: dict[int, tuple[int, ...]] = {}
        self._assembly = assembly
        self._oldest = oldest

    def keep_after(self, step: int) -> int:
        """Forget the plans of steps that were taken; return how many are left."""
        self.plans = {s: tickets for s, tickets in self.plans.items() if s > step}
        return len(self.plans)

    def begun(self, step: int) -> bool:
        """Tell whether the batch of a step is decided already."""
        return step in self.plans

    def next(self, step: int) -> list[Group] | None:
        """Return the groups of a step, the same as before a death; None: not enough."""
        plan = self.plans.get(step, ())
        planned = [group for t in plan if (group := self._assembly.whole(t)) is not None]
        if planned and len(planned) == len(plan):
            return planned
        self.plans.pop(step, None)
        if self._assembly.ready < self.policy.batch:
            return None
        if self.policy.over_age == "hold":
            return None if self.held_by() is not None else self._in_order()
        return self._assembly.oldest(self.policy.batch)

    def held_by(self) -> int | None:
        """Return the first ticket without a whole group that `over_age = "hold"` waits for.

        Steps take tickets in the order of issue. At most (max_age + 1) * batch are out, so each is
        trained at most max_age steps after it was issued: no token of it can be older. None: the
        batch is there, or nothing is held.
        """
        if self.policy.over_age != "hold":
            return None
        first = self._oldest(self.policy.batch)
        return next((t for t in first if self._assembly.whole(t) is None), None)

    def _in_order(self) -> list[Group]:
        found = [self._assembly.whole(t) for t in self._oldest(self.policy.batch)]
        return [group for group in found if group is not None]
