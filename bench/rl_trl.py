"""Realnet beside TRL's GRPO trainer: wall seconds to one held-out accuracy.

In rounds, each from another warm start, TRL first in every other one. TRL has both cores, as
realnet has: two threads (`--trl-threads`), which take a third less time than one where nothing
else runs, and far more on a busy machine.

Called by `rl.py`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from machine import Keep
from rl_learning import EVERY, TARGET, Point, train_realnet, train_trl
from rl_rounds import run_rounds, table, times_as_fast

from realnet.compiled import SWITCH
from realnet.roles.models.native.built import is_whole, path_here

STEPS = {"realnet": 40, "trl": 40}


def measure(
    arguments: argparse.Namespace, console: Any, before: dict[str, Any], keep: Keep
) -> dict[str, Any]:
    """Run the rounds."""
    if arguments.trl is None:
        raise SystemExit("--trl names no Python that has trl")
    built = os.environ.get(SWITCH) != "0" and is_whole(path_here())
    found = {"threads": arguments.trl_threads, "target": TARGET, "kernels": built}

    def one(name: str, base: Path, work: Path, seed: int) -> list[Point]:
        steps = EVERY if arguments.quick else STEPS[name]
        if name == "realnet":
            return train_realnet(work, base, 1, steps, seed)
        threads = arguments.trl_threads
        return train_trl(work, arguments.trl, base, steps, seed, threads=threads)

    return found | run_rounds(
        ("realnet", "trl"), one, arguments, console, before, lambda rounds: keep(found | rounds)
    )


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures."""
    return {"vs_trl_seconds": times_as_fast(measured, "realnet", "trl")}


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the table in Markdown."""
    return [
        f"Both from the same warm start, 32 prompts x 8 answers and two updates a step, the same "
        f"rates, bounds and token-mean loss. Time to pass@1 {TARGET:g} (T = 1, 192 held-out "
        f"problems, 4 answers each, weights of every {EVERY} steps measured afterwards). TRL with "
        f"{measured['threads']} thread(s); realnet with one thread of torch a process, "
        "prompter and rewarder in the generator's, η = 1, its "
        f"model on {'kernels in C' if measured.get('kernels') else 'operations of torch'}.",
        "",
        *table(measured, {"realnet": "realnet", "trl": "TRL"}),
    ]
