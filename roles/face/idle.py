"""The idle share of each role: how much of the last steps its members computed nothing.

Only the head knows when everybody was busy, so the view, which lives beside it, measures. A span of
work is known when it has ended; hence the window is of several steps.

Knows plans and busy spans. Called by the view.
"""

from __future__ import annotations

from collections import deque

from realnet.observe.record import Busy, total_s
from realnet.roles.face.overlap import clip
from realnet.topology.plan import Plan

WINDOW_STEPS = 5


class Idle:
    """Measures at each step over the `WINDOW_STEPS` before it. Times are monotonic seconds."""

    def __init__(self, plan: Plan) -> None:
        self._counts = {name: role.count * role.ranks for name, role in plan.roles.items()}
        self._steps: deque[float] = deque(maxlen=WINDOW_STEPS + 1)

    def step(self, busy: Busy, now_s: float) -> dict[str, float]:
        """Note a step at `now_s`; return role -> idle share, of roles that ever computed."""
        self._steps.append(now_s)
        start_s = self._steps[0]
        if now_s <= start_s:
            return {}
        worked: dict[str, float] = {}
        for actor, spans in busy.spans.items():
            role = actor.rpartition("/")[0]
            if role in self._counts:
                worked[role] = worked.get(role, 0.0) + total_s(clip(spans, start_s, now_s))
        return {
            role: max(0.0, 1.0 - seconds / (self._counts[role] * (now_s - start_s)))
            for role, seconds in sorted(worked.items())
        }
