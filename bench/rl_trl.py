"""Realnet beside TRL's GRPO trainer: wall seconds to one held-out accuracy.

In rounds, each from another warm start, TRL first in every other one. TRL has both cores, as
realnet has: with one thread, or with two (`--trl-threads`), which a busy machine makes far slower.

Called by `rl.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rl_learning import EVERY, TARGET, Point, make_base, seconds_to, train_realnet, train_trl

STEPS = {"realnet": 30, "trl": 30}


def measure(arguments: argparse.Namespace, console: Any) -> dict[str, Any]:
    """Run the rounds."""
    if arguments.trl is None:
        raise SystemExit("--trl names no Python that has trl")
    rounds = []
    for seed in range(1 if arguments.quick else arguments.rounds):
        base = make_base(arguments.folder, seed)
        found: dict[str, Any] = {}
        for name in ("realnet", "trl") if seed % 2 == 0 else ("trl", "realnet"):
            steps = EVERY if arguments.quick else STEPS[name]
            with tempfile.TemporaryDirectory(prefix="rb") as folder:
                work = Path(folder) / name
                points = (
                    train_realnet(work, base, 1, steps, seed)
                    if name == "realnet"
                    else train_trl(
                        *(work, arguments.trl, base, steps, seed), threads=arguments.trl_threads
                    )
                )
            found[name] = points
            console.print(f"round {seed + 1} {name}: {points}", markup=False)
        rounds.append(found)
    return {"rounds": rounds, "threads": arguments.trl_threads, "target": TARGET}


def _curves(measured: dict[str, Any], name: str) -> list[list[Point]]:
    return [[Point(*p) for p in r[name]] for r in measured.get("rounds", [])]


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures."""
    ratios = []
    for ours, theirs in zip(_curves(measured, "realnet"), _curves(measured, "trl"), strict=True):
        mine, other = seconds_to(ours, TARGET), seconds_to(theirs, TARGET)
        if mine and other:
            ratios.append(other / mine)
    return {"vs_trl_seconds": statistics.median(ratios) if ratios else None}


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the table in Markdown."""
    out = [
        f"Both from the same warm start, 32 prompts x 8 answers and two updates a step, the same "
        f"rates, bounds and token-mean loss. Time to pass@1 {TARGET:g} (T = 1, 192 held-out "
        f"problems, 4 answers each, weights of every {EVERY} steps measured afterwards). TRL with "
        f"{measured['threads']} thread(s); realnet with its processes, one thread each, η = 1.",
        "",
        "| round | program | seconds to the target | seconds a step | last step: pass@1 |",
        "|---|---|---|---|---|",
    ]
    for name in ("realnet", "trl"):
        for number, points in enumerate(_curves(measured, name), 1):
            reached = seconds_to(points, TARGET)
            last = points[-1]
            shown = "not reached" if reached is None else f"{reached:.1f}"
            out.append(
                f"| {number} | {name} | {shown} | {last.seconds / last.step:.2f} | "
                f"{last.step}: {last.accuracy:.2f} |"
            )
    return out
