"""`make bench-rl-stability`: what staleness does to each algorithm on the demo's task.

    stability.py [--study table|cause] [--seeds N] [--minutes M] [--benchmarks FILE] [--report]

Every algorithm at every η starts from the same warm starts with the same seeds. Runs are taken in
turns, a whole round of all settings with one seed after the other, so that a study that is cut off
(`--minutes`) compares like with like. What was run is kept in `runs/bench/stability.jsonl`, and a
run that is there is not run again.

Long: half a minute of one core a run. Never part of CI.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from stability_plan import STUDIES, settings
from stability_report import write
from stability_run import Setting, make_warm_start, run

BENCH = Path(__file__).parent
WARM_STARTS = 5


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", choices=tuple(STUDIES), default="table")
    parser.add_argument("--seeds", type=int, default=10, help="of each algorithm at each η")
    parser.add_argument("--steps", type=int, default=50, help="of each run")
    parser.add_argument("--minutes", type=float, default=1e9, help="then no further run begins")
    parser.add_argument("--only", default="", help="names of algorithms, with commas between")
    parser.add_argument("--etas", default="", help="values of η, with commas between")
    parser.add_argument("--report", action="store_true", help="tables of what was run, no runs")
    parser.add_argument("--folder", type=Path, default=BENCH.parent / "runs" / "bench")
    parser.add_argument("--benchmarks", type=Path, help="the file with the section to rewrite")
    return parser.parse_args()


def main() -> int:
    arguments = read_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = arguments.folder / "stability.jsonl"
    if not arguments.report:
        torch.set_num_threads(1)
        run_all(arguments, kept)
    write(read_rows(kept), arguments.folder, arguments.benchmarks)
    return 0


def run_all(arguments: argparse.Namespace, kept: Path) -> None:
    """Run what is missing, round after round."""
    end_s = time.monotonic() + 60 * arguments.minutes
    known = {_key(row) for row in read_rows(kept)}
    only = set(filter(None, arguments.only.split(",")))
    etas = {int(eta) for eta in arguments.etas.split(",") if eta}
    for setting in settings(arguments.study, arguments.seeds, WARM_STARTS, arguments.steps):
        wanted = (not only or setting.algorithm in only) and (not etas or setting.eta in etas)
        if not wanted or _key(setting._asdict()) in known:
            continue
        if time.monotonic() > end_s:
            print("out of time: the rest is not run")
            return
        row = {**run(setting, _warm(arguments.folder, setting)), "load": os.getloadavg()[0]}
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        last = row["evals"][-1]
        print(
            f"{setting.algorithm:<12} η {setting.eta:<2} warm {setting.warm} seed {setting.seed}: "
            f"p@1 {last['p1']:.3f} greedy {last['greedy']:.3f}, {row['wall_s']} s",
            flush=True,
        )


def _warm(folder: Path, setting: Setting) -> Path:
    """Return a warm start, made once."""
    path = folder / "warm" / str(setting.warm)
    if not path.is_dir():
        make_warm_start(path, setting.warm)
    return path


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    rule = json.dumps(row["rule"], sort_keys=True)
    return rule, row["eta"], row["warm"], row["seed"], row["steps"]


def read_rows(kept: Path) -> list[dict[str, Any]]:
    """Return all runs that were kept."""
    if not kept.is_file():
        return []
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
