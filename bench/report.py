"""The tables of a benchmark: in the terminal, in BENCHMARKS.md, and the flat wire.json.

Knows nothing of how anything was measured. Called by `run.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from figures import FLOORS, Figures, Round, best_of, figures, middle
from rich.console import Console
from rich.table import Table

START, END = "<!-- wire: written by make bench -->", "<!-- wire: end -->"
COLUMNS = {  # row of a program -> heading, whether more is better, how a number is written
    "w1_p50_us": ("1 ask: p50 µs", False, "{:,.0f}"),
    "w1_p99_us": ("p99 µs", False, "{:,.0f}"),
    "w64_per_s": ("64 asks: /s", True, "{:,.0f}"),
    "w64_cpu_us": ("CPU µs", False, "{:,.1f}"),
    "w1024_per_s": ("1024 asks: /s", True, "{:,.0f}"),
    "a256k_mb_per_s": ("256 KB: MB/s", True, "{:,.0f}"),
    "a8m_mb_per_s": ("8 MB: MB/s", True, "{:,.0f}"),
    "bulk_p50_us": ("p50 µs under bulk", False, "{:,.0f}"),
    "kill_max_ms": ("kill, worst ms", False, "{:,.0f}"),
}
NAMES = {
    "realnet": "realnet ipc",
    "realnet_tcp": "realnet tcp + CURVE",
    "realnet_inproc": "realnet one process",
    "realnet_pure": "realnet ipc, not compiled",
    "realnet_inproc_pure": "realnet one process, not compiled",
    "raw": "raw pyzmq ROUTER/DEALER, ipc",
    "raw_tcp": "raw pyzmq ROUTER/DEALER, tcp",
    "zmq_asyncio": "zmq.asyncio + uvloop, ipc",
    "grpc_unary": "grpc.aio unary, unix",
    "grpc_bidi": "grpc.aio bidi stream, unix",
    "xoscar": "xoscar, unix",
    "ray_sync": "Ray actor, batches and ray.get",
    "ray_async": "Ray async actor, await",
    "monarch": "Monarch, call_one",
}


class Measured(NamedTuple):
    """All that was measured: rounds of the wire benchmark, counts of the loss benchmark."""

    rounds: list[Round]
    loss: Round
    about: dict[str, Any]  # date, machine, versions, load; of each benchmark


def tables(measured: Measured) -> tuple[Table, Table]:
    """Return the table of figures and the table of programs."""
    return _figures_table(figures(measured.rounds, measured.loss)), _rows_table(measured.rounds)


def _figures_table(found: Figures) -> Table:
    table = Table("figure", "value", "floor", "", title="same-round ratios, median of rounds")
    for name, value in found.items():
        floor = FLOORS.get(name)
        met = "" if floor is None or value is None else ("yes" if floor.met(value) else "NO")
        table.add_row(name, _number(value), str(floor or ""), met)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.3g}"


def _rows_table(rounds: list[Round]) -> Table:
    table = Table("program", *(c[0] for c in COLUMNS.values()), title="median (best) of rounds")
    for variant, name in NAMES.items():
        cells = []
        for row, (_, larger, form) in COLUMNS.items():
            values = [r.get(variant, {}).get(row) for r in rounds]
            at_middle, at_best = middle(values), best_of(values, larger)
            known = at_middle is not None and at_best is not None
            cells.append(f"{form.format(at_middle)} ({form.format(at_best)})" if known else "")
        if any(cells):
            table.add_row(name, *cells)
    return table


def markdown(measured: Measured) -> str:
    """Return the section of BENCHMARKS.md."""
    about = measured.about.get("wire", {})
    lines = [START, "", f"{about.get('date', '')}, {about.get('machine', '')}.", ""]
    lines += [f"Versions: {about.get('versions', '')}.", ""]
    lines += [f"realnet's hot path: {about.get('form', '')}.", ""]
    lines += [f"Rounds: {len(measured.rounds)}; load average before each: {about.get('load')}.", ""]
    for table in tables(measured):
        lines += [f"{table.title}:", "", *_plain(table), ""]
    for name, rows in measured.loss.items():
        told = measured.about.get("loss", {})
        lines.append(
            f"{NAMES[name]}: {rows['messages']:,.0f} messages in "
            f"{rows['took_s']:,.0f} s, {rows['connections_cut']:,.0f} connections cut: "
            f"{rows['lost']:.0f} lost, {rows['duplicated']:.0f} duplicated ({told.get('date')})."
        )
    return "\n".join([*lines, "", END])


def _plain(table: Table) -> list[str]:
    cells = [list(column.cells) for column in table.columns]
    lines = ["| " + " | ".join(str(c.header) for c in table.columns) + " |"]
    lines.append("|" + "---|" * len(table.columns))
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in zip(*cells, strict=True)]


def write(measured: Measured, flat: Path, benchmarks: Path | None, console: Console) -> None:
    """Print the tables, write wire.json, and put the section into BENCHMARKS.md."""
    for table in tables(measured):
        console.print(table)
    flat.write_text(
        json.dumps(figures(measured.rounds, measured.loss), indent=1) + "\n", encoding="utf-8"
    )
    console.print(f"{flat}")
    if benchmarks is not None:
        text = benchmarks.read_text(encoding="utf-8")
        if START not in text or END not in text:
            raise SystemExit(f"{benchmarks} has no lines {START!r} and {END!r} to write between")
        before, after = text.partition(START)[0], text.partition(END)[2]
        benchmarks.write_text(before + markdown(measured) + after, encoding="utf-8")
        console.print(f"{benchmarks}: rewritten")
