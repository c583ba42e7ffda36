"""The flat rl.json, the terminal's table, and the section of BENCHMARKS.md.

Knows what each figure should reach; knows nothing of how it was measured. Called by `rl.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

START, END = "<!-- rl: written by make bench-rl -->", "<!-- rl: end -->"
KEYS = (
    *("demo_accuracy_base", "demo_accuracy_final", "demo_seconds", "demo_peak_gb"),
    *("async_speedup_eta1", "async_speedup_eta2"),
    *("bound_fraction_4", "bound_fraction_32", "bound_fraction_256"),
    *("async_vs_sync_demo", "vs_trl_seconds", "engine_vs_generate", "engine_vs_vllm_cpu"),
    *("swap_stall_ms_p50", "swap_stall_ms_p99"),
)
FLOORS = {
    "async_speedup_eta1": 2.1,
    "async_speedup_eta2": 2.6,
    "bound_fraction_4": 0.95,
    "bound_fraction_32": 0.95,
    "bound_fraction_256": 0.95,
    "engine_vs_generate": 3.0,
    "engine_vs_vllm_cpu": 1.0,
    "vs_trl_seconds": 2.0,
    "demo_accuracy_final": 0.75,
}
HEADINGS = {
    "async": "Asynchrony",
    "engine": "Engine",
    "demo": "Demo: asynchronous against synchronous",
    "trl": "Against TRL",
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
    found: dict[str, float | None] = dict.fromkeys(KEYS)
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


def _rows(found: dict[str, float | None]) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, value in found.items():
        floor = FLOORS.get(name)
        met = "" if floor is None or value is None else "yes" if value >= floor else "NO"
        shown = "not measured" if value is None else f"{value:.3g}"
        rows.append((name, shown, f">= {floor:g}" if floor else "", met))
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
