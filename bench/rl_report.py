"""The flat rl.json, the terminal's table, and the section of BENCHMARKS.md.

Knows what each figure should reach; knows nothing of how it was measured. Called by `rl.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from figures import Floor
from rich.console import Console
from rich.table import Table

START, END = "<!-- rl: written by make bench-rl -->", "<!-- rl: end -->"
FLOORS: dict[str, Floor | None] = {
    "demo_accuracy_base": None,
    "demo_accuracy_final": Floor(0.75),
    "demo_greedy_final": Floor(0.9),
    "demo_seconds": Floor(300, most=True),
    "demo_peak_gb": Floor(3, most=True),
    "async_speedup_eta1": Floor(2.1),
    "async_speedup_eta2": Floor(2.6),
    "bound_fraction_4": Floor(0.95),
    "bound_fraction_32": Floor(0.95),
    "bound_fraction_256": Floor(0.95),
    "bound_fraction_4_eta1": Floor(0.65),
    "bound_fraction_32_eta1": Floor(0.65),
    "bound_fraction_256_eta1": Floor(0.65),
    "async_vs_sync_demo": Floor(1),
    "vs_trl_seconds": Floor(2),
    "engine_vs_generate": Floor(3),
    "engine_vs_vllm_cpu": Floor(1),
    "swap_stall_ms_p50": None,
    "swap_stall_ms_p99": None,
}
HEADINGS = {
    "demo": "The demo",
    "async": "Asynchrony",
    "modes": "Asynchronous against synchronous, with real compute",
    "trl": "Against TRL",
    "engine": "Engine",
}


class Part(NamedTuple):
    """One part: what it measured ({} when it was not run), and the module that can say it."""

    name: str
    measured: dict[str, Any]
    module: ModuleType


def write(
    parts: list[Part], flat: Path, benchmarks: Path | None, console: Console
) -> dict[str, float | None]:
    """Write all; return the figures, None for those not measured."""
    found: dict[str, float | None] = dict.fromkeys(FLOORS)
    for part in parts:
        found |= part.module.figures(part.measured)
    flat.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = Table("figure", "value", "floor", "")
    for row in _rows(found):
        table.add_row(*row)
    console.print(table)
    if benchmarks is not None:
        replace_section(benchmarks, START, END, "\n".join(_section(parts, found)))
        console.print(f"{benchmarks}: rewritten")
    return found


def missed(found: dict[str, float | None]) -> list[str]:
    """Return the names of figures that were measured and do not reach their floors."""
    return [
        name
        for name, value in found.items()
        if value is not None and (floor := FLOORS.get(name)) is not None and not floor.met(value)
    ]


def _rows(found: dict[str, float | None]) -> list[tuple[str, str, str, str]]:
    rows, short = [], missed(found)
    for name, value in found.items():
        floor = FLOORS.get(name)
        met = "" if floor is None or value is None else "NO" if name in short else "yes"
        shown = "not measured" if value is None else f"{value:.3g}"
        rows.append((name, shown, "" if floor is None else str(floor), met))
    return rows


def _section(parts: list[Part], found: dict[str, float | None]) -> list[str]:
    out = ["", "| figure | value | floor | |", "|---|---|---|---|"]
    out += ["| " + " | ".join(row) + " |" for row in _rows(found)]
    for part in parts:
        if not part.measured:
            continue
        about = part.measured["about"]
        load = f"load average {about['load']} before, {about['load_after']} after"
        out += ["", f"### {HEADINGS[part.name]}", ""]
        out += [f"{about['date']}, {about['machine']}; {about['versions']}; {load}.", ""]
        out += part.module.lines(part.measured)
    return [*out, ""]


def replace_section(file: Path, start: str, end: str, text: str) -> None:
    """Put `text` between two marks of a file."""
    whole = file.read_text(encoding="utf-8")
    if start not in whole or end not in whole:
        raise SystemExit(f"{file} has no lines {start!r} and {end!r} to write between")
    before, after = whole.partition(start)[0], whole.partition(end)[2]
    file.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")
