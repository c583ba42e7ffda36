"""The rows of a run, sorted by what they say: steps, evaluations, speeds, events.

Reads rows in the order in which they were written, over any number of attempts. When a trainer went
back to a checkpoint, the rows of the steps that were undone are left out: a step stands here once.

Knows the names of the values that the roles write. Called by the view (row by row, live) and by the
report (from the files).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

Row = dict[str, Any]

_EVAL = re.compile(r"eval/(.+)/pass@1")
_AGE = re.compile(r"age_\d{1,6}")
_COUNT = re.compile(r"\((\d+)(?: of \d+)? problems")
IDLE = "idle/"  # and the name of a role: the share of recent time in which it computed nothing
_STATES = ("trained", "buffered", "leased", "waiting", "set_aside", "dropped")
_OF_TRAINED = (
    *("kl", "kl1", "kl_ref", "ess", "clip_fraction", "ratio_tail"),
    *("weight_max", "weight_mean", "weight_capped"),
)


class Measured(NamedTuple):
    """One evaluation of one task."""

    step: int
    share: float


class Rows:
    """What is known of one run so far. Of the `foreign` roles (of another policy) only events."""

    def __init__(self, foreign: Collection[str] = ()) -> None:
        self._foreign = frozenset(foreign)
        self.steps: list[Row] = []
        self.evals: list[Row] = []
        self.speeds: list[Row] = []  # of generators
        self.idles: list[Row] = []  # idle share of each role, by step
        self.events: list[Row] = []
        self.problems: dict[str, int] = {}  # task -> how many problems the last evaluation measured
        self.closed: dict[str, int] = {}  # the counts of the books that were closed last
        self.ended_s: dict[int, float] = {}  # attempt -> its last sign of life

    def add(self, kind: str, row: Any) -> None:
        """Sort in one row of metrics.jsonl ("metrics") or events.jsonl ("event")."""
        if not isinstance(row, dict):
            return
        attempt = int(number(row, "attempt") or 1)
        time_s = number(row, "time_s") or 0.0
        self.ended_s[attempt] = max(self.ended_s.get(attempt, 0.0), time_s)
        own = str(row.get("actor", "")).partition("/")[0] not in self._foreign
        if kind == "event":
            self._event(row)
            if own and "issued" in row and "trained" in row:
                self.closed = {k: n for k, n in row.items() if isinstance(n, int)}
        elif not own:
            return
        elif number(row, "step") is None:
            if number(row, "tokens_per_s") is not None:
                self.speeds.append(row)
        elif any(_EVAL.fullmatch(key) for key in row):
            self._eval(row)
        elif any(key.startswith(IDLE) for key in row):
            self.idles = [r for r in self.idles if r["step"] < row["step"]] + [row]
        elif number(row, "grad_norm") is not None or number(row, "reward") is not None:
            self._step(row)

    def add_all(self, kind: str, rows: Iterable[Any]) -> None:
        """Sort in many."""
        for row in rows:
            self.add(kind, row)

    def _step(self, row: Row) -> None:
        if self.steps and row["step"] <= self.steps[-1]["step"]:
            self.steps = [r for r in self.steps if r["step"] < row["step"]]
            self.evals = [r for r in self.evals if r["step"] < row["step"]]
        self.steps.append(row)

    def _eval(self, row: Row) -> None:
        step, attempt = row["step"], row.get("attempt", 1)
        kept = [r for r in self.evals if r["step"] < step or r.get("attempt", 1) == attempt]
        same = [r for r in self.evals if r["step"] == step]
        merged = {**same[-1], **row} if same else row
        self.evals = sorted(
            [*(r for r in kept if r["step"] != step), merged], key=lambda r: int(r["step"])
        )

    def _event(self, row: Row) -> None:
        self.events.append(row)
        found = _COUNT.search(str(row.get("text", "")))
        if found and isinstance(row.get("task"), str):
            self.problems[row["task"]] = int(found[1])

    # ------------------------------------------------------------ what they say

    @property
    def step(self) -> int:
        """Return the last step that was trained."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    @property
    def wall_s(self) -> float:
        """Return the seconds of all attempts together."""
        return sum(self.ended_s.values())

    def tasks(self) -> list[str]:
        """Return the tasks that were measured."""
        found = (_EVAL.fullmatch(key) for row in self.evals for key in row)
        return list(dict.fromkeys(match[1] for match in found if match))

    def measured(self, task: str, what: str = "pass@1") -> list[Measured]:
        """Return the evaluations of one task, by step."""
        pairs = ((int(r["step"]), number(r, f"eval/{task}/{what}")) for r in self.evals)
        return [Measured(step, value) for step, value in pairs if value is not None]

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Return (step, value) of one value of the training steps."""
        pairs = ((float(r["step"]), sign(r, name)) for r in self.steps)
        return [(step, value) for step, value in pairs if value is not None]

    def recent(self, name: str, count: int = 5) -> float | None:
        """Return the mean of a value over the last few steps."""
        found = [v for r in self.steps[-count:] if (v := sign(r, name)) is not None]
        return sum(found) / len(found) if found else None

    def ages(self) -> list[int]:
        """Return the token ages that occurred."""
        found = {int(k[4:]) for r in self.steps for k in r if _AGE.fullmatch(k)}
        return sorted(found)

    def step_times(self) -> list[tuple[float, float]]:
        """Return (step, seconds since the step before), without those across a restart."""
        found = []
        for before, row in pairwise(self.steps):
            a, b = number(before, "time_s"), number(row, "time_s")
            same = before.get("attempt") == row.get("attempt")
            if a is not None and b is not None and same and b > a:
                found.append((float(row["step"]), (b - a) / max(1, row["step"] - before["step"])))
        return found

    def window(self, attempt: int | None = None) -> tuple[float, float] | None:
        """Return the times of the first and last step row of an attempt (default: the last)."""
        if attempt is None:
            attempt = max(self.ended_s, default=1)
        times = [
            t
            for row in self.steps
            if row.get("attempt", 1) == attempt and (t := number(row, "time_s")) is not None
        ]
        return (min(times), max(times)) if len(times) > 1 else None

    def tokens_per_s(self) -> float | None:
        """Return the newest speed, summed over the generators of the last attempt."""
        newest = {
            str(row.get("actor", "")): number(row, "tokens_per_s") or 0.0
            for row in self.speeds
            if row.get("attempt", 1) == max(self.ended_s)
        }
        return sum(newest.values()) if newest else None

    def speed_curve(self) -> list[tuple[float, float]]:
        """Return (step, tokens generated a second) as the generators told it during that step."""
        found: dict[int, dict[str, list[float]]] = {}
        at, speeds = 0, sorted(self.speeds, key=_when)
        for row in self.steps:
            while at < len(speeds) and _when(speeds[at]) <= _when(row):
                value = number(speeds[at], "tokens_per_s")
                if value is not None:
                    actors = found.setdefault(int(row["step"]), {})
                    actors.setdefault(str(speeds[at].get("actor", "")), []).append(value)
                at += 1
        return [
            (float(step), sum(sum(v) / len(v) for v in actors.values()))
            for step, actors in sorted(found.items())
        ]

    def idle_roles(self) -> list[str]:
        """Return the roles whose idle share is known."""
        found = (key.removeprefix(IDLE) for r in self.idles for key in r if key.startswith(IDLE))
        return list(dict.fromkeys(found))

    def idle(self, role: str) -> list[tuple[float, float]]:
        """Return (step, idle share) of a role."""
        pairs = ((float(r["step"]), number(r, IDLE + role)) for r in self.idles)
        return [(step, share) for step, share in pairs if share is not None]

    def tickets(self) -> dict[str, int]:
        """Return the ledger's counts after the last step: issued and each state."""
        row = self.steps[-1] if self.steps else {}
        counts = {state: number(row, f"tickets_{state}") for state in ("issued", *_STATES)}
        return {state: int(count) for state, count in counts.items() if count is not None}


def number(row: Row, key: str) -> float | None:
    """Return a finite number of a row, or None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:  # JSON has integers of any size
        return None
    return value if math.isfinite(value) else None


def sign(row: Row, name: str) -> float | None:
    """Return a vital sign; None for a mean over trained tokens when there were none."""
    if name in _OF_TRAINED and row.get("tokens_trained") == 0:
        return None
    return number(row, name)


def older(row: Row) -> float | None:
    """Return the share of tokens that an older version wrote; an age that has no value has none."""
    if not any(_AGE.fullmatch(key) for key in row):
        return None
    return max(0.0, 1.0 - (number(row, "age_0") or 0.0))


def _when(row: Row) -> tuple[float, float]:
    return number(row, "attempt") or 1.0, number(row, "time_s") or 0.0
