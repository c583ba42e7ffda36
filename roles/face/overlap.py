"""How much of a run generation and training were busy at the same time.

The window is from the first training step to the last: a warm start and the shutdown, when nobody
could overlap with anybody, do not count. Pure functions over spans of seconds. Called by the view
and the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from realnet.observe.record import both, total_s, union

Spans = list[tuple[float, float]]


class Overlap(NamedTuple):
    """Seconds inside the window: its length, each side busy, both busy."""

    window_s: float
    generator_s: float
    trainer_s: float
    both_s: float

    @property
    def share(self) -> float:
        """Return the share of the window in which both were busy."""
        return self.both_s / self.window_s

    def __str__(self) -> str:
        return (
            f"generation and training were both busy {self.share:.0%} of the wall time between "
            f"the first and the last step; generator busy {self.generator_s / self.window_s:.0%}, "
            f"trainer busy {self.trainer_s / self.window_s:.0%}"
        ).replace("%", " %")


def clip(spans: Iterable[tuple[float, float]], start_s: float, end_s: float) -> Spans:
    """Return merged spans, cut to a window."""
    return union(
        (max(a, start_s), min(b, end_s)) for a, b in spans if b > start_s and a < end_s and a < b
    )


def measure(
    generator: Iterable[tuple[float, float]],
    trainer: Iterable[tuple[float, float]],
    window: tuple[float, float] | None,
) -> Overlap | None:
    """Measure inside the window; None when there is none (fewer than two steps)."""
    if window is None or window[1] <= window[0]:
        return None
    left, right = clip(generator, *window), clip(trainer, *window)
    return Overlap(window[1] - window[0], total_s(left), total_s(right), total_s(both(left, right)))
