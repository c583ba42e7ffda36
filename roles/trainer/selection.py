"""Which whole groups are not worth a place in a batch.

Knows records and the rule. Called by the trainer, whose store asks it of each group.
"""

from __future__ import annotations

from collections.abc import Callable

from realnet.roles.algorithms.presets import Rule
from realnet.roles.algorithms.shaping import uninformative
from realnet.roles.messages import Group


def unfit_groups(rule: Rule) -> Callable[[Group], str]:
    """Return the function that tells why not to train on a group; "" for a good one."""

    def reason(group: Group) -> str:
        if not rule.dynamic_sampling:
            return ""
        return uninformative([s.reward for s in group.scored], rule.mean_between)

    return reason
