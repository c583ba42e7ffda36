"""`make bench-rl`: the reinforcement learning benchmarks, part by part, then the tables.

    rl.py PART... [--continue] [--quick] [--rounds N] [--trl PYTHON] [--vllm PYTHON]
                  [--benchmarks FILE]

A part keeps what it measured in runs/bench/rl-PART.json, after every run of it, and rewrites its
own table when it is done; `rl.json` is written from all parts that are there. What was cut off goes
on with `--continue`: parts that are done stay as they are, the one that is not is finished.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import rl_async
import rl_demo
import rl_engine
import rl_modes
import rl_trl
from machine import about
from rich.console import Console
from rl_report import Part, missed, write

BENCH = Path(__file__).parent
PARTS: dict[str, ModuleType] = {
    "demo": rl_demo,
    "async": rl_async,
    "modes": rl_modes,
    "trl": rl_trl,
    "engine": rl_engine,
}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    names = ", ".join(PARTS)
    parser.add_argument("parts", nargs="*", help=f"of {names}; none: only the tables")
    parser.add_argument("--continue", dest="goes_on", action="store_true", help="what was cut off")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4, help="demo: so many runs, each its own")
    parser.add_argument("--faster", type=float, default=1.0, help="async: real time so much faster")
    parser.add_argument("--sizes", default="", help="async: of real,4,32,256")
    parser.add_argument("--trl", type=Path, help="the Python that has trl")
    parser.add_argument("--trl-threads", type=int, default=2)
    parser.add_argument("--vllm", type=Path, help="the Python that has vLLM's CPU build")
    parser.add_argument("--folder", type=Path, default=BENCH.parent / "runs" / "bench")
    parser.add_argument("--benchmarks", type=Path, help="the file with the section to rewrite")
    found = parser.parse_args()
    if unknown := set(found.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}; there are {names}")
    return found


def main() -> int:
    arguments, console = read_arguments(), Console(highlight=False, soft_wrap=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.parts:
        if run_part(name, arguments, console):
            tables(arguments, console)
    if not arguments.parts:
        tables(arguments, console)
    return 0


def run_part(name: str, arguments: argparse.Namespace, console: Console) -> bool:
    """Measure a part, keeping every step of it; return False for one that was done already."""
    path = arguments.folder / f"rl-{name}.json"
    before = _read(path)
    began = about()
    if arguments.goes_on and before:
        if before.get("done", True):
            console.print(f"{name}: done, {before['about']['date']}")
            return False
        began = before["about"]
    elif name != "async":  # of which sizes may be run on their own
        before = {}

    def keep(measured: dict[str, Any], done: bool = False) -> None:
        told = {**began, "load_after": about()["load"]}
        text = json.dumps({**measured, "about": told, "done": done}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

    keep(PARTS[name].measure(arguments, console, before, keep), done=True)
    return True


def tables(arguments: argparse.Namespace, console: Console) -> None:
    """Print what all parts measured, and write it."""
    parts = [
        Part(name, _read(arguments.folder / f"rl-{name}.json"), module)
        for name, module in PARTS.items()
    ]
    found = write(parts, arguments.folder / "rl.json", arguments.benchmarks, console)
    console.print(f"short of their floors: {', '.join(missed(found)) or 'none'}")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


if __name__ == "__main__":
    sys.exit(main())
