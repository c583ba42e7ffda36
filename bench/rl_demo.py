"""The demo as `make run` trains it, and asynchronous against synchronous with real compute.

The demo: wall time from the command to its end, the largest memory of all its processes together
(sum of proportional shares), and its own measures of held-out problems. The two modes: η = 1 and
η = 0 of one topology from one warm start, in rounds; time to one accuracy as in `rl_learning.py`.

Called by `rl.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo_policy import TOPOLOGY
from rl_learning import EVERY, TARGET, Point, make_base, seconds_to, train_realnet

STEPS = 30
MODES = {"async": 1, "sync": 0}
_LOOK_S = 1.0


def measure(arguments: argparse.Namespace, console: Any) -> dict[str, Any]:
    """Run the demo once, then the rounds."""
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        demo = run_demo(Path(folder), arguments.quick)
    console.print(f"demo: {demo}", markup=False)
    rounds = []
    for seed in range(1 if arguments.quick else arguments.rounds):
        base = make_base(arguments.folder, seed)
        found: dict[str, Any] = {}
        for name in MODES if seed % 2 == 0 else reversed(MODES):
            steps = EVERY if arguments.quick else STEPS
            with tempfile.TemporaryDirectory(prefix="rb") as folder:
                found[name] = train_realnet(Path(folder) / name, base, MODES[name], steps, seed)
            console.print(f"round {seed + 1} {name}: {found[name]}", markup=False)
        rounds.append(found)
    return {"demo": demo, "rounds": rounds}


def run_demo(folder: Path, quick: bool) -> dict[str, float]:
    """Run the demo to its end; return what it says and what it took."""
    sets = ("run.until.steps=10", "roles.trainer.warm_start.steps=20") if quick else ()
    told = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-P", "-m", "realnet.cli", "run", str(TOPOLOGY), "--runs"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    start_s, peak = time.monotonic(), 0.0
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(folder / "runs"), *told], env=env, stdout=log, stderr=log
        )
        while process.poll() is None:
            peak = max(peak, _memory_gb(process.pid))
            time.sleep(_LOOK_S)
    took_s = time.monotonic() - start_s
    if process.returncode:
        raise RuntimeError((folder / "log").read_text(encoding="utf-8")[-3000:])
    path = next((folder / "runs").glob("*/metrics.jsonl"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    measured = [r for r in rows if r["actor"].startswith("evaluator/") and _share(r) is not None]
    return {
        "seconds": took_s,
        "peak_gb": peak,
        "base": _share(measured[0]) or 0.0,
        "final": _share(measured[-1]) or 0.0,
    }


def _share(row: dict[str, Any]) -> float | None:
    """Return the demo's own held-out pass@1 in a row of its evaluator."""
    found = [v for k, v in row.items() if "addz_test/" in k and k.endswith("pass@1")]
    return float(found[0]) if found else None


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


def _curves(measured: dict[str, Any], name: str) -> list[list[Point]]:
    return [[Point(*p) for p in r[name]] for r in measured.get("rounds", [])]


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures."""
    demo = measured.get("demo", {})
    ratios = []
    for ours, slow in zip(_curves(measured, "async"), _curves(measured, "sync"), strict=True):
        mine, other = seconds_to(ours, TARGET), seconds_to(slow, TARGET)
        if mine and other:
            ratios.append(other / mine)
    return {
        "demo_accuracy_base": demo.get("base"),
        "demo_accuracy_final": demo.get("final"),
        "demo_seconds": demo.get("seconds"),
        "demo_peak_gb": demo.get("peak_gb"),
        "async_vs_sync_demo": statistics.median(ratios) if ratios else None,
    }


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the tables in Markdown."""
    demo = measured["demo"]
    out = (
        []
        if not demo
        else [
            f"`make run` after installation: {demo['seconds']:.0f} s, at most "
            f"{demo['peak_gb']:.2f} GB, held-out pass@1 {demo['base']:.2f} -> {demo['final']:.2f}.",
            "",
        ]
    )
    out += [
        f"Time to pass@1 {TARGET:g} from one warm start a round, without evaluation in the run:",
        "",
        "| round | mode | seconds to the target | seconds a step | last step: pass@1 |",
        "|---|---|---|---|---|",
    ]
    for name, eta in MODES.items():
        for number, points in enumerate(_curves(measured, name), 1):
            reached, last = seconds_to(points, TARGET), points[-1]
            shown = "not reached" if reached is None else f"{reached:.1f}"
            out.append(
                f"| {number} | {name}, η = {eta} | {shown} | {last.seconds / last.step:.2f} | "
                f"{last.step}: {last.accuracy:.2f} |"
            )
    return out
