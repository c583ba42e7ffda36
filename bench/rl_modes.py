"""Asynchronous against synchronous training with real compute: time to one accuracy.

η = 1 and η = 0 of one topology, in rounds, from one warm start each, on the same cores.

Called by `rl.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from machine import Keep
from rl_learning import EVERY, TARGET, Point, train_realnet
from rl_rounds import run_rounds, table, times_as_fast

STEPS = 40
MODES = {"async": 1, "sync": 0}


def measure(
    arguments: argparse.Namespace, console: Any, before: dict[str, Any], keep: Keep
) -> dict[str, Any]:
    """Run the rounds."""
    steps = EVERY if arguments.quick else STEPS

    def one(name: str, base: Path, work: Path, seed: int) -> list[Point]:
        return train_realnet(work, base, MODES[name], steps, seed)

    return run_rounds(tuple(MODES), one, arguments, console, before, keep)


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures."""
    return {"async_vs_sync_demo": times_as_fast(measured, "async", "sync")}


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the table in Markdown."""
    return [
        f"Time to pass@1 {TARGET:g} from one warm start a round, without evaluation in the run "
        f"(weights of every {EVERY} steps measured afterwards):",
        "",
        *table(measured, {name: f"{name}, η = {eta}" for name, eta in MODES.items()}),
    ]
