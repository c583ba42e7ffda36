"""`make bench-rl`: the reinforcement learning benchmarks, part by part, then the tables.

    rl.py PART... [--quick] [--rounds N] [--trl PYTHON] [--vllm PYTHON] [--benchmarks FILE]

Each part keeps what it measured in runs/bench/rl-PART.json, so that parts may be run on their own;
after any of them all tables are printed and `rl.json` is written from everything that is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import rl_async
import rl_demo
import rl_engine
import rl_trl
from machine import about
from rich.console import Console
from rl_report import FLOORS, Part, write

BENCH = Path(__file__).parent
PARTS = ("async", "engine", "demo", "trl")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"of {PARTS}; none: only the tables")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faster", type=float, default=1.0, help="async: real time so much faster")
    parser.add_argument("--sizes", default="", help="async: of real,4,32,256")
    parser.add_argument("--trl", type=Path, help="the Python that has trl")
    parser.add_argument("--trl-threads", type=int, default=1)
    parser.add_argument("--vllm", type=Path, help="the Python that has vLLM's CPU build")
    parser.add_argument("--folder", type=Path, default=BENCH.parent / "runs" / "bench")
    parser.add_argument("--benchmarks", type=Path, help="the file with the section to rewrite")
    found = parser.parse_args()
    if unknown := set(found.parts) - set(PARTS):
        parser.error(f"no such part: {unknown}; there are {PARTS}")
    return found


def main() -> int:
    arguments, console = read_arguments(), Console(highlight=False, soft_wrap=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    measures: dict[str, Any] = {
        "async": lambda: rl_async.measure(arguments, console),
        "engine": lambda: rl_engine.measure(arguments, console),
        "demo": lambda: rl_demo.measure(arguments, console),
        "trl": lambda: rl_trl.measure(arguments, console),
    }
    for name in arguments.parts:
        began = about()
        measured = {**measures[name](), "about": {**began, "load_after": about()["load"]}}
        path = arguments.folder / f"rl-{name}.json"
        path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    modules = {"async": rl_async, "engine": rl_engine, "demo": rl_demo, "trl": rl_trl}
    parts = [
        Part(name, _read(arguments.folder / f"rl-{name}.json"), module)
        for name, module in modules.items()
    ]
    found = write(parts, arguments.folder / "rl.json", arguments.benchmarks, console)
    missed = [n for n, floor in FLOORS.items() if (v := found.get(n)) is not None and v < floor]
    console.print(f"below their floors: {', '.join(missed) or 'none'}")
    return 0


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


if __name__ == "__main__":
    sys.exit(main())
