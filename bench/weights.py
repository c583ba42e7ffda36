"""`make bench-weights`: weights by every link, in one run; the table, and runs/bench/weights.json.

    weights.py [--mib N] [--rounds N] [--benchmarks BENCHMARKS.md]

Ratios are of rates (bytes a second), taken within a round; the median over rounds counts. Figures
that others measured (`vllm_*` and so on) stay in weights.json as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from figures import Floor
from measure import Rows
from rich.console import Console
from rich.table import Table
from run import about
from variants import BENCH, run_realnet

START, END = "<!-- weights: written by make bench-weights -->", "<!-- weights: end -->"
WAYS = (
    "memcpy",
    *(f"{way}_{n}" for n in (1, 4) for way in ("shm", "shm_digest", "stream", "gloo")),
)
RATIOS = {  # figure -> (way, compared with), floor
    "shm_vs_memcpy_1": (("shm_1", "memcpy"), Floor(0.7)),
    "shm_vs_memcpy_4": (("shm_4", "memcpy"), Floor(0.7)),
    "shm_digest_vs_memcpy_1": (("shm_digest_1", "memcpy"), Floor(0.5)),
    "shm_digest_vs_memcpy_4": (("shm_digest_4", "memcpy"), Floor(0.5)),
    "shm_vs_gloo_4": (("shm_digest_4", "gloo_4"), Floor(3)),
    "stream_vs_memcpy": (("stream_1", "memcpy"), Floor(0.2)),
    "stream_vs_gloo": (("stream_1", "gloo_1"), Floor(0.7)),
    "stream_vs_memcpy_4": (("stream_4", "memcpy"), None),
    "stream_vs_gloo_4": (("stream_4", "gloo_4"), None),
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=BENCH.parent / "runs" / "bench")
    parser.add_argument("--benchmarks", type=Path, help="the file with the section to rewrite")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        settings = (f"roles.writer.mib={arguments.mib}", f"roles.writer.rounds={arguments.rounds}")
        rows = run_realnet("weights", "writer", Path(folder) / "rows.json", settings)
    console = Console(highlight=False, soft_wrap=True)
    found = figures(rows, arguments.rounds)
    tables = ratio_table(found), way_table(rows, arguments.rounds)
    for table in tables:
        console.print(table)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    flat = arguments.folder / "weights.json"
    kept = json.loads(flat.read_text(encoding="utf-8")) if flat.is_file() else {}
    flat.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")
    console.print(f"{flat}")
    if arguments.benchmarks is not None:
        told = about(None, [load, os.getloadavg()[0]])
        lines = [START, "", f"{told['date']}, {told['machine']}.", ""]
        lines += [f"{arguments.mib} MiB of float32, {arguments.rounds} rounds; load average "]
        lines[-1] += f"before and after: {told['load']}."
        for table in tables:
            lines += ["", f"{table.title}:", "", *plain(table)]
        rewrite(arguments.benchmarks, "\n".join([*lines, "", END]))
        console.print(f"{arguments.benchmarks}: rewritten")
    return 0


def figures(rows: Rows, rounds: int) -> dict[str, float]:
    """Return the median ratio of rates of each figure."""
    return {
        name: round(
            statistics.median(rows[f"{base}.{r}"] / rows[f"{way}.{r}"] for r in range(rounds)), 4
        )
        for name, ((way, base), _) in RATIOS.items()
    }


def ratio_table(found: dict[str, float]) -> Table:
    table = Table("figure", "value", "floor", "", title="Same-round ratios, median of rounds")
    for name, value in found.items():
        floor = RATIOS[name][1]
        met = "" if floor is None else ("yes" if floor.met(value) else "NO")
        table.add_row(name, f"{value:.3g}", str(floor or ""), met)
    return table


def way_table(rows: Rows, rounds: int) -> Table:
    table = Table("way", "GB/s", "best", "s", title="Rates, median and best of rounds")
    for way in WAYS:
        times_s = [rows[f"{way}.{r}"] for r in range(rounds)]
        rates = [rows["bytes"] / 1e9 / t for t in times_s]
        middle = statistics.median(rates)
        table.add_row(
            way, f"{middle:.2f}", f"{max(rates):.2f}", f"{rows['bytes'] / 1e9 / middle:.3f}"
        )
    return table


def plain(table: Table) -> list[str]:
    cells = [list(column.cells) for column in table.columns]
    lines = ["| " + " | ".join(str(c.header) for c in table.columns) + " |"]
    lines.append("|" + "---|" * len(table.columns))
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in zip(*cells, strict=True)]


def rewrite(path: Path, section: str) -> None:
    """Put the section between its two marks."""
    text = path.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise SystemExit(f"{path} has no lines {START!r} and {END!r} to write between")
    path.write_text(text.partition(START)[0] + section + text.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
