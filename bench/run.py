"""`make bench-wire` and `make bench-loss`: interleaved rounds, then the tables.

    run.py wire | loss [--rounds N] [--quick] [--peers PYTHON] [--only NAME,...]

Rounds go over all programs in turn, every other round backwards, so that what the machine does
meanwhile hits all alike. What was measured is kept in runs/bench/, so that the two benchmarks fill
one wire.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import Round
from measure import Rows
from report import Measured, write
from rich.console import Console
from variants import BENCH, TCP, VARIANTS, Failed, Scale, run_realnet, run_variant

QUICK = Scale(seconds=0.15, bulk_bytes=32 * 2**20, kills=1)
OURS = tuple(v.name for v in VARIANTS if not v.peer)  # one of these that fails is a failure
VERSIONS = (
    *("realnet-rl", "pyzmq", "msgspec", "uvloop", "numpy"),
    *("ray", "xoscar", "grpcio", "torchmonarch"),
)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("wire", "loss"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measure")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all")
    parser.add_argument("--peers", type=Path, help="the Python that has the peers installed")
    parser.add_argument("--only", default="", help="names of programs, with commas between")
    parser.add_argument("--messages", type=int, default=5_000_001, help="loss: over ipc")
    parser.add_argument("--tcp-messages", type=int, default=5_000_001, help="loss: over tcp")
    parser.add_argument("--folder", type=Path, default=BENCH.parent / "runs" / "bench")
    parser.add_argument("--benchmarks", type=Path, help="the file with the section to rewrite")
    return parser.parse_args()


def main() -> int:
    arguments, console = read_arguments(), Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 170  # a log: the table needs it
    arguments.folder.mkdir(parents=True, exist_ok=True)
    measure = {"wire": wire, "loss": loss}[arguments.what]
    kept = arguments.folder / f"{arguments.what}-rows.json"
    kept.write_text(json.dumps(measure(arguments, console)), encoding="utf-8")
    parts: dict[str, Any] = {"wire": {}, "loss": {}}
    for name in parts:
        path = arguments.folder / f"{name}-rows.json"
        if path.is_file():
            parts[name] = json.loads(path.read_text(encoding="utf-8"))
    measured = Measured(
        parts["wire"].get("rounds", []),
        parts["loss"].get("counts", {}),
        {name: part.get("about", {}) for name, part in parts.items()},
    )
    kept_for_all = None if arguments.quick or arguments.only else arguments.benchmarks
    write(measured, arguments.folder / "wire.json", kept_for_all, console)
    if arguments.what == "loss":
        return 1 if any(r["lost"] or r["duplicated"] for r in measured.loss.values()) else 0
    return 0 if all(r.get(v) != {} for r in measured.rounds for v in OURS) else 1


def wire(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the rounds."""
    scale = QUICK if arguments.quick else Scale(seconds=arguments.seconds)
    only = set(filter(None, arguments.only.split(",")))
    chosen = [v for v in VARIANTS if not only or v.name in only]
    if arguments.peers is None:
        chosen = [v for v in chosen if not v.apart]
        console.print("the peers are left out: --peers names no Python that has them")
    rounds: list[Round] = []
    loads = []
    for i in range(arguments.rounds):
        found: Round = {}
        loads.append(os.getloadavg()[0])
        for variant in chosen if i % 2 == 0 else reversed(chosen):
            start_s = time.perf_counter()
            try:
                found[variant.name] = run_variant(variant, scale, arguments.peers or Path())
            except Failed as failed:
                found[variant.name] = {}
                console.print(f"round {i + 1} {variant.name} failed: {failed}", markup=False)
            else:
                rows = {k: round(v, 1) for k, v in found[variant.name].items()}
                took = f"{time.perf_counter() - start_s:.0f} s"
                console.print(f"round {i + 1}  {variant.name:<16} {took:>5}  {rows}", markup=False)
        rounds.append(found)
    return {"rounds": rounds, "about": about(arguments.peers, loads)}


def loss(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Count what is lost or doubled, over ipc and over tcp with keys."""
    counts: Round = {}
    for name, num, settings in (
        ("realnet", arguments.messages, ()),
        ("realnet_tcp", arguments.tcp_messages, (TCP,)),
    ):
        with tempfile.TemporaryDirectory(prefix="rb") as folder:
            told = (*settings, f"roles.sender.num={num}")
            rows: Rows = run_realnet("loss", "sender", Path(folder) / "rows.json", told)
        if rows["messages"] > 100_000 and rows["connections_cut"] < 10:
            raise SystemExit(f"{name}: too few connections were cut for this to mean much: {rows}")
        console.print(f"{name}: {rows}", markup=False)
        counts[name] = rows
    return {"counts": counts, "about": about(None, [os.getloadavg()[0]])}


def about(peers: Path | None, loads: list[float]) -> dict[str, Any]:
    """Return date, machine and versions."""
    names = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((n.partition(":")[2].strip() for n in names if n.startswith("model name")), "?")
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    code = (
        "import importlib.metadata as m\n"
        f"for n in {VERSIONS!r}:\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    look = "from realnet.compiled import FORM; print(FORM)"
    form = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    versions: dict[str, str] = {}
    for python in (peers, sys.executable):
        if python is not None:
            said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
            versions |= dict(line.split() for line in said.stdout.splitlines())
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} x {cpu}, {memory_gb:.0f} GB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
        "form": form.stdout.strip(),
        "versions": ", ".join(f"{n} {v}" for n, v in versions.items()),
        "load": ", ".join(f"{load:.1f}" for load in loads),
    }


if __name__ == "__main__":
    sys.exit(main())
