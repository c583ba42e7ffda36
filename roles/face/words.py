"""Figures as words: durations, shares, the ledger's line, what was measured.

Pure functions. Called by the view and the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

from realnet.roles.face.rows import Rows
from realnet.topology.plan import Plan

_STATES = ("trained", "buffered", "leased", "waiting", "set_aside", "dropped")
_BLOCKS = "▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    """Return "48 s", "2 min 41 s", "3 h 05 min"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(value: float | None) -> str:
    """Return a number with about three digits, for a table; "–" for none."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g} M"
    if size >= 10_000:
        return f"{value / 1e3:.3g} k"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    if size >= 1:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:.2g}" if size < 0.1 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """Return "12 %"; "–" for none."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if 0.0005 <= abs(value) < 0.01 else f"{100 * value:.0f} %"


def spark(values: list[float], width: int = 12, low: float | None = None) -> str:
    """Return a curve in blocks; `low` fixes its floor."""
    if len(values) < 2:
        return ""
    if len(values) > width:
        cuts = [round(i * len(values) / width) for i in range(width + 1)]
        values = [_mean(values[a:b]) for a, b in pairwise(cuts)]
    floor = min(values) if low is None else min(low, *values)
    span = max(values) - floor
    return "".join(_BLOCKS[min(7, int(8 * (v - floor) / span)) if span > 0 else 0] for v in values)


def balance(counts: Mapping[str, int]) -> str:
    """Return the ledger's counts as a line: all that was issued is in exactly one state."""
    if "issued" not in counts:
        return ""
    parts = [f"{counts[state]} {state.replace('_', ' ')}" for state in _STATES if state in counts]
    total = sum(counts.get(state, 0) for state in _STATES)
    verdict = "balanced" if total == counts["issued"] else f"DOES NOT BALANCE: they are {total}"
    return f"issued {counts['issued']} = {' + '.join(parts) or 0} ({verdict})"


def task_line(rows: Rows, task: str, shared: Mapping[str, Any]) -> str:
    """Return "addz_test pass@1 0.15 -> 0.74 (192 held-out problems, T = 1)"."""
    found = rows.measured(task)
    if not found:
        return f"{task}: not measured"
    first, last = found[0], found[-1]
    text = f"{task} pass@1 {first.share:.2f}"
    text += f" -> {last.share:.2f}" if last.step > first.step else f" at step {first.step}"
    if greedy := greedy_words(rows, task):
        text += f", greedy {greedy}"
    about = how_measured(rows, task, shared)
    return f"{text} ({about})" if about else text


def greedy_words(rows: Rows, task: str, arrow: str = "->") -> str:
    """Return "0.02 -> 0.91": what the likeliest answers solve; "" when that was not measured."""
    found = rows.measured(task, "greedy")
    if not found:
        return ""
    first, last = found[0], found[-1]
    more = f" {arrow} {last.share:.2f}" if last.step > first.step else ""
    return f"{first.share:.2f}{more}"


def how_measured(rows: Rows, task: str, shared: Mapping[str, Any]) -> str:
    """Return "192 held-out problems, T = 1", as far as it is known."""
    table = table_of(shared, "tasks", task)
    count = rows.problems.get(task) or table.get("limit")
    parts = [f"{count} held-out problems"] if count else []
    if isinstance(table.get("temperature"), int | float):
        parts.append(f"T = {table['temperature']:g}")
    if isinstance(table.get("samples"), int) and table["samples"] > 1:
        parts.append(f"mean of {table['samples']} answers")
    if asked := asked_as(task, shared):
        parts.append(f'asked as "{asked}"')
    return ", ".join(parts)


def asked_as(task: str, shared: Mapping[str, Any]) -> str:
    """Return the prompt of a measured task, when tasks on the same data are trained with another.

    A model that is made to think in its prompt is measured apart from one that chooses to.
    """
    tasks = shared.get("tasks")
    table = table_of(shared, "tasks", task)
    trained = [
        t.get("prompt")
        for t in (tasks.values() if isinstance(tasks, Mapping) else ())
        if isinstance(t, Mapping) and t.get("use") == "train" and t.get("data") == table.get("data")
    ]
    prompt = str(table.get("prompt", ""))
    return prompt if trained and prompt and prompt not in trained else ""


def table_of(shared: Mapping[str, Any], table: str, name: str = "") -> dict[str, Any]:
    """Return one shared record of a plan as plain data, {} when it is not there."""
    records = shared.get(table)
    record = records.get(name) if isinstance(records, Mapping) else None
    return dict(record) if isinstance(record, Mapping) else {}


def policy_of(shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first policy of a plan."""
    records = shared.get("policy")
    return table_of(shared, "policy", next(iter(records), "") if records else "")


def policies_of(plan: Plan | None) -> list[str]:
    """Return the policies that a plan trains, the one that it is about first."""
    records = plan.shared.get("policy") if plan else None
    return list(records) if isinstance(records, Mapping) else []


def foreign_to(plan: Plan | None, policy: str) -> set[str]:
    """Return the roles that work on another policy than this one."""
    roles = plan.roles.values() if plan else ()
    return {r.name for r in roles if r.policy not in ("", policy)}


def role_of(plan: Plan | None, kind: str) -> str:
    """Return the name that a topology gave to the role of a kind ("trainer", "x.y:Trainer"), the
    first policy's where there are several."""
    roles = plan.roles.values() if plan else ()
    first = next(iter(policies_of(plan)), "")
    return next(
        (
            r.name
            for r in roles
            if r.kind.rpartition(":")[2].lower() == kind and r.policy in ("", first)
        ),
        kind,
    )


def other_line(policy: str, rows: Rows, counts: Mapping[str, int]) -> str:
    """Return "judge: 176 steps, reward 0.68 -> 0.92; issued 1416 = ..." of a further policy."""
    if not rows.steps:
        return f"{policy}: no step yet"
    rewards = [value for _, value in rows.curve("reward")]
    text = f"{policy}: {rows.step} steps"
    if rewards:
        few = max(1, min(5, len(rewards) // 2))
        first, last = _mean(rewards[:few]), _mean(rewards[-few:])
        text += f", reward {short(first)} -> {short(last)}"
    books = balance(counts)
    return f"{text}; {books}" if books else text


def planned_steps(shared: Mapping[str, Any]) -> int:
    """Return how many steps the schedule plans, 0 when that is unknown."""
    until = table_of(shared, "run").get("until")
    steps = until.get("steps") if isinstance(until, Mapping) else None
    return steps if isinstance(steps, int) else 0


def seconds_left(rows: Rows, shared: Mapping[str, Any]) -> float | None:
    """Estimate how long the steps that are left take."""
    times = [s for _, s in rows.step_times()[-15:]]
    steps = planned_steps(shared)
    return median(times) * max(0, steps - rows.step) if times and steps else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
