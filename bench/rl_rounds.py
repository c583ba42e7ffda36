"""Rounds of programs that train from one warm start each, and how much sooner one of them is there.

A round has a warm start and a seed of its own; every other one goes the other way about. What a
ratio compares ran in one round.

Called by `rl_modes.py` and `rl_trl.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import Keep
from rl_learning import TARGET, Point, make_base, seconds_to

Train = Callable[[str, Path, Path, int], list[Point]]  # program, base, folder, seed -> its curve


def run_rounds(
    names: Sequence[str],
    train: Train,
    arguments: argparse.Namespace,
    console: Any,
    before: Mapping[str, Any],
    keep: Keep,
) -> dict[str, Any]:
    """Run the rounds that `before` does not have."""
    rounds: list[dict[str, Any]] = list(before.get("rounds", []))
    for seed in range(len(rounds), 1 if arguments.quick else arguments.rounds):
        base = make_base(arguments.folder, seed)
        found: dict[str, Any] = {}
        for name in names if seed % 2 == 0 else reversed(names):
            with tempfile.TemporaryDirectory(prefix="rb") as folder:
                found[name] = train(name, base, Path(folder) / name, seed)
            console.print(f"round {seed + 1} {name}: {found[name]}", markup=False)
        rounds.append(found)
        keep({"rounds": rounds})
    return {"rounds": rounds}


def curves(measured: dict[str, Any], name: str) -> list[list[Point]]:
    """Return a program's curve of every round."""
    return [[Point(*p) for p in r[name]] for r in measured.get("rounds", [])]


def times_as_fast(measured: dict[str, Any], ours: str, theirs: str) -> float | None:
    """Return the median of how many times as long the other took to the target."""
    ratios = []
    for mine, other in zip(curves(measured, ours), curves(measured, theirs), strict=True):
        short, long = seconds_to(mine, TARGET), seconds_to(other, TARGET)
        if short and long:
            ratios.append(long / short)
    return statistics.median(ratios) if ratios else None


def table(measured: dict[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return the rounds in Markdown."""
    out = [
        "| round | program | seconds to the target | seconds a step | last step: pass@1 |",
        "|---|---|---|---|---|",
    ]
    for name, shown in names.items():
        for number, points in enumerate(curves(measured, name), 1):
            reached, last = seconds_to(points, TARGET), points[-1]
            when = "not reached" if reached is None else f"{reached:.1f}"
            out.append(
                f"| {number} | {shown} | {when} | {last.seconds / last.step:.2f} | "
                f"{last.step}: {last.accuracy:.2f} |"
            )
    return out
