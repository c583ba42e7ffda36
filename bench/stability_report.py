"""The stability study's tables: in the terminal, in stability.json, in BENCHMARKS.md.

For each algorithm and η: accuracy at the end (drawn and greedy), learning speed (mean pass@1 of all
measures after the first), the deepest fall of greedy accuracy below what it had been, and how many
runs fell. Knows rows of runs, not how they were made. Called by `stability.py`.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import about
from rich.console import Console
from rich.table import Table
from rl_report import replace_section

START, END = "<!-- stability: written by make bench-rl-stability -->", "<!-- stability: end -->"
FALLEN = 0.15  # of greedy accuracy below the best before: a run that fell
HEADINGS = (
    *("algorithm", "η", "runs", "final p@1", "final greedy", "speed: mean p@1", "deepest fall"),
    *("fell", "KL to the writer, largest step"),
)


def write(rows: Sequence[dict[str, Any]], folder: Path, benchmarks: Path | None) -> None:
    """Print the table, and write it."""
    table = Table(*HEADINGS)
    lines = list(table_rows(rows))
    for line in lines:
        table.add_row(*line)
    Console(width=170).print(table)
    flat = [dict(zip(HEADINGS, line, strict=True)) for line in lines]
    (folder / "stability.json").write_text(json.dumps(flat, indent=1) + "\n", encoding="utf-8")
    if benchmarks is not None:
        where = about()
        text = [
            "",
            f"{where['date']}, {where['machine']}; {len(rows)} runs, one core each. Mean ± sd over "
            "runs (none: one run). Fell: greedy ended or was measured "
            f"{FALLEN:g} below its best so far.",
            "",
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "---|" * len(HEADINGS),
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
        ]
        replace_section(benchmarks, START, END, "\n".join(text))


def table_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line for each algorithm and η."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["eta"], row["algorithm"]].append(row)
    return [_line(name, eta, runs) for (eta, name), runs in sorted(found.items())]


def _line(name: str, eta: int, runs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    falls = [fall(run) for run in runs]
    return (
        name,
        str(eta),
        str(len(runs)),
        _spread([run["evals"][-1]["p1"] for run in runs]),
        _spread([run["evals"][-1]["greedy"] for run in runs]),
        _spread([statistics.mean(e["p1"] for e in run["evals"][1:]) for run in runs]),
        f"{max(falls):.2f}",
        str(sum(f >= FALLEN for f in falls)),
        _spread([max(step["kl"] for step in run["curve"]) for run in runs]),
    )


def fall(run: dict[str, Any]) -> float:
    """Return how far greedy accuracy fell below what had been reached."""
    best = deepest = 0.0
    for measured in run["evals"]:
        best = max(best, measured["greedy"])
        deepest = max(deepest, best - measured["greedy"])
    return deepest


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"
