"""The demo as `make run` trains it, once for each of some seeds, from nothing to its report.

Measured: wall time from the command to its end, the largest memory of all its processes together
(sum of proportional shares), its own measures of held-out problems (drawn at temperature 1, greedy,
and both with thinking forced), and whether its ledger balances and its report is there.

Called by `rl.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo_policy import TOPOLOGY
from machine import Keep

_LOOK_S = 1.0
MEASURES = {
    "p1": "eval/addz_test/pass@1",
    "greedy": "eval/addz_test/greedy",
    "forced_p1": "eval/addz_test_forced/pass@1",
}


def measure(
    arguments: argparse.Namespace, console: Any, before: dict[str, Any], keep: Keep
) -> dict[str, Any]:
    """Run the demo with one seed after the other."""
    runs = list(before.get("runs", []))
    for seed in range(len(runs), 1 if arguments.quick else arguments.seeds):
        with tempfile.TemporaryDirectory(prefix="rb") as folder:
            runs.append({"seed": seed, **run_demo(Path(folder), seed, arguments.quick)})
        console.print(f"demo: {runs[-1]}", markup=False)
        keep({"runs": runs})
    return {"runs": runs}


def run_demo(folder: Path, seed: int, quick: bool) -> dict[str, Any]:
    """Run the demo to its end; return what it says and what it took."""
    sets = [f"policy.seed={seed}", f"tasks.addz.seed={seed}"]
    sets += ["run.until.steps=10", "roles.trainer.warm_start.steps=20"] if quick else []
    told = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-P", "-m", "realnet.cli", "run", str(TOPOLOGY), "--runs"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    load, start_s, peak = os.getloadavg()[0], time.monotonic(), 0.0
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(folder / "runs"), *told], env=env, stdout=log, stderr=log
        )
        while process.poll() is None:
            peak = max(peak, _memory_gb(process.pid))
            time.sleep(_LOOK_S)
    took_s = time.monotonic() - start_s
    said = (folder / "log").read_text(encoding="utf-8")
    if process.returncode:
        raise RuntimeError(said[-3000:])
    run = next((folder / "runs").glob("*/metrics.jsonl")).parent
    if not (run / "report.html").is_file() or not (run / "ledger.json").is_file():
        raise RuntimeError(f"no report, or no ledger that was closed:\n{said[-3000:]}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    measured = [found for row in rows if (found := _measures(row))]
    return {
        "seconds": took_s,
        "peak_gb": peak,
        "base": measured[0],
        "final": measured[-1],
        "load": load,
    }


def _measures(row: dict[str, Any]) -> dict[str, float]:
    """Return the held-out measures in a row of metrics.jsonl; none unless all are in it."""
    found = {name: row[key] for name, key in MEASURES.items() if key in row}
    return found if "p1" in found else {}


def _memory_gb(root: int) -> float:
    """Return the memory of a process and all below it, what they share counted once."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    todo, total = [root], 0
    while todo:
        pid = todo.pop()
        todo += parents.get(pid, [])
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:"))
    return total * 1024 / 1e9


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures: of all seeds the worst."""
    runs = measured.get("runs", [])

    def ends(name: str, when: str) -> list[float]:
        return [run[when][name] for run in runs if name in run[when]]

    return {
        "demo_accuracy_base": max(ends("p1", "base"), default=None),
        "demo_accuracy_final": min(ends("p1", "final"), default=None),
        "demo_greedy_final": min(ends("greedy", "final"), default=None),
        "demo_seconds": max((run["seconds"] for run in runs), default=None),
        "demo_peak_gb": max((run["peak_gb"] for run in runs), default=None),
    }


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the table in Markdown."""
    out = [
        "`make run` after installation, warm start and reinforcement learning with one seed each. "
        "Held-out problems (192), before and after: drawn at temperature 1, greedy, and drawn with "
        "thinking forced. The figures above are the worst seed's.",
        "",
        "| seed | pass@1 | greedy | pass@1, made to think | seconds | GB | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in measured["runs"]:
        shown = [_change(run, name) for name in MEASURES]
        out.append(
            f"| {run['seed']} | {' | '.join(shown)} | {run['seconds']:.0f} | "
            f"{run['peak_gb']:.2f} | {run['load']:.1f} |"
        )
    return out


def _change(run: dict[str, Any], name: str) -> str:
    before, after = (run[when].get(name) for when in ("base", "final"))
    return "" if before is None or after is None else f"{before:.2f} -> {after:.2f}"
