"""Which checkpoint is best: the one whose version has most of what held-out problems measure.

An evaluation takes a while, so a checkpoint may be written long before its version is measured:
until then it is spared. Of equal ones the newest is best.

Decides without IO. Called by the keeper of checkpoints, and by whoever looks for RUN@best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from realnet.errors import ConfigError, listed
from realnet.roles.tables import Task

_AWAITED = 3  # checkpoints spared, at most, because their version is still to be measured
_WHATS = ("pass@1", "greedy", "reward", "length")


class Best:
    """What is known of the versions measured by one name ("eval/TASK/pass@1"), by step."""

    def __init__(self, name: str, every: int = 0) -> None:
        self.name = name
        self.values: dict[int, float] = {}
        self._every = every  # versions that are measured: one in so many steps; 0: not known

    def add(self, step: int, value: float) -> None:
        """Version `step` was measured; a later word on the same step wins."""
        self.values[step] = value

    def add_all(self, measured: Iterable[tuple[int, float]]) -> None:
        """Enter many, in the order in which they were measured."""
        for step, value in measured:
            self.add(step, value)

    def forget_after(self, step: int) -> None:
        """The trainer went back to this step: what came after it is no version any more."""
        self.values = {s: value for s, value in self.values.items() if s <= step}

    def of(self, steps: Iterable[int]) -> int | None:
        """Return the best of these steps; None when none was measured."""
        known = [(self.values[step], step) for step in steps if step in self.values]
        return max(known)[1] if known else None

    def spared(self, steps: Iterable[int]) -> set[int]:
        """Return which of these checkpoints must stay: the best, and those still to be measured."""
        steps = sorted(steps)
        newest = max(self.values, default=-1)
        awaited = [s for s in steps if s > newest and self._every and s % self._every == 0]
        best = self.of(steps)
        return {*awaited[-_AWAITED:], *([] if best is None else [best])}


def measured_rows(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[tuple[int, float]]:
    """Yield (step, value) of the rows of metrics.jsonl that measured this."""
    for row in rows:
        step, value = row.get("step"), row.get(name)
        if isinstance(step, int) and isinstance(value, int | float):
            yield step, float(value)


def measured_name(best: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name in metrics.jsonl of what `[run].save.best` says, or of the first pass@1."""
    if best:
        return row_name(best)
    names = (key for row in rows for key in row if key.startswith("eval/"))
    return next((key for key in names if key.endswith("/pass@1")), "")


def row_name(best: str) -> str:
    """Return "eval/TASK/pass@1" for "eval.TASK.pass@1"; a task may have dots in its name."""
    first, _, rest = best.partition(".")
    task, _, what = rest.rpartition(".")
    return f"{first}/{task}/{what}"


def check_best(best: str, tasks: Mapping[str, Task]) -> None:
    """Raise ConfigError unless `[run].save.best` names what an evaluator measures."""
    if not best:
        return
    first, _, rest = best.partition(".")
    task, _, what = rest.rpartition(".")
    measured = [name for name, table in tasks.items() if table.use == "eval"]
    where = f'[run].save.best = "{best}"'
    if first != "eval" or not task:
        raise ConfigError(f'{where}: write "eval.TASK.pass@1". Measured: {listed(measured)}')
    if task not in measured:
        raise ConfigError(f'{where}: no task "{task}" is measured. Measured: {listed(measured)}')
    if what not in _WHATS:
        raise ConfigError(f'{where}: "{what}" is not measured of a task: {listed(_WHATS)}')
