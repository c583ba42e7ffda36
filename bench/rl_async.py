"""What asynchrony gains with answers of very different lengths, and how near the bound it comes.

The fake engine writes answers whose lengths are lognormal with a cap of 8 times the mean; a step
takes a given time. Four generators run in real time in processes of their own; more run in virtual
time (`rl_virtual.py`). Both are `rl_async.toml`; η = 0 is the same topology.

    bound: a step cannot take less than the slowest stage: all tokens of a batch at full slots, or
    the trainer's step. The share of it that is reached is max(generation, training) / step time.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import Keep
from rl_virtual import TOPOLOGY, run_virtual

GROUP, RATE, BLOCK = 8, 100.0, 4
MEAN_TOKENS = 61.0  # of a lognormal with mean 64 and sigma 1, cut off at 512
RATIO = 0.8  # a step of the trainer takes this share of what generating its batch takes
FILL = 4  # answers of a batch for each slot of all generators
WARM = 3  # the first 1/WARM of a run's steps is not counted
SHM = Path("/dev/shm")
CASES = (("mask", 0), ("mask", 1), ("mask", 2), ("mask", 4), ("hold", 1), ("hold", 2))


class Size(NamedTuple):
    """How many generators, how many slots each, steps of a run, and whether in virtual time."""

    generators: int
    slots: int
    steps: int
    virtual: bool

    @property
    def batch(self) -> int:
        """Tickets a step."""
        return self.generators * self.slots * FILL // GROUP

    @property
    def generation_s(self) -> float:
        """Seconds that all slots need for a batch."""
        return self.batch * GROUP * MEAN_TOKENS / (self.generators * self.slots * RATE)


SIZES = {
    "real": Size(4, 32, 18, False),
    "4": Size(4, 32, 24, True),
    "32": Size(32, 8, 14, True),
    "256": Size(256, 4, 8, True),
}
QUICK = {"real": Size(2, 8, 4, False), "4": Size(4, 8, 6, True)}


def measure(
    arguments: argparse.Namespace, console: Any, before: dict[str, Any], keep: Keep
) -> dict[str, Any]:
    """Run what `--sizes` names (else everything); rows of other sizes stay as they were."""
    sizes = QUICK if arguments.quick else SIZES
    chosen = [sizes[name] for name in arguments.sizes.split(",") if name] or [*sizes.values()]
    rows = before.get("rows", [])
    if not arguments.goes_on:
        rows = [r for r in rows if not any(_is(r, size) for size in chosen)]
    order = [(s.generators, s.virtual) for s in sizes.values()]
    for size in chosen:
        few = arguments.quick or size.generators > REAL_GENERATORS
        for over_age, eta in CASES[:3] if few else CASES:
            if any(_is(r, size) and (r["over_age"], r["eta"]) == (over_age, eta) for r in rows):
                continue
            rows.append(_one(size, over_age, eta, arguments.faster))
            console.print(f"{rows[-1]}", markup=False)
            rows.sort(key=lambda r: order.index((r["generators"], r["virtual"])))
            keep({"rows": rows})
    return {"rows": rows}


REAL_GENERATORS = 4


def _is(row: dict[str, Any], size: Size) -> bool:
    return (row["generators"], row["virtual"]) == (size.generators, size.virtual)


def _one(size: Size, over_age: str, eta: int, faster: float) -> dict[str, Any]:
    speed = 1.0 if size.virtual else faster
    step_s = RATIO * size.generation_s / speed
    sets = (
        f'policy.over_age="{over_age}"',
        f"policy.max_age={eta}",
        f"policy.batch={size.batch}",
        f"roles.generator.count={size.generators}",
        f"roles.generator.engine.slots={size.slots}",
        f"roles.generator.engine.block={BLOCK}",
        f"run.until.steps={size.steps}",
    )
    start_s = time.monotonic()
    load = os.getloadavg()[0]
    # In virtual time a disk would only cost real time.
    where = SHM if size.virtual and SHM.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rb", dir=where) as folder:
        if size.virtual:
            steps = run_virtual(
                Path(folder) / "run", sets, block_s=BLOCK / RATE, step_s=step_s, seed=eta
            )
        else:
            real = (f"roles.generator.engine.fake.rate={RATE * speed}", f"{STEP}={step_s}")
            steps = run_real(Path(folder), (*sets, *real))
    return {
        "generators": size.generators,
        "slots": size.slots,
        "batch": size.batch,
        "virtual": size.virtual,
        "over_age": over_age,
        "eta": eta,
        **_figures(size, steps, step_s, speed),
        "wall_s": round(time.monotonic() - start_s, 1),
        "rate": RATE * speed,
        "load": round(load, 1),
    }


STEP = "roles.trainer.step_s"


def _figures(
    size: Size, steps: Sequence[dict[str, Any]], step_s: float, speed: float
) -> dict[str, float]:
    """Return means over the steps that count."""
    skipped = len(steps) // WARM
    counted = steps[skipped:]
    n = len(counted)
    each_s = (counted[-1]["time_s"] - steps[skipped - 1]["time_s"]) / n
    tokens = sum(row["tokens"] for row in counted) / n
    generation_s = tokens / (size.generators * size.slots * RATE * speed)
    return {
        "step_s": each_s,
        "generation_s": generation_s,
        "training_s": step_s,
        "bound": max(generation_s, step_s) / each_s,
        "masked": sum(row["tokens_masked"] for row in counted) / n,
        "age_mean": sum(row["age_mean"] for row in counted) / n,
        "age_max": max(row["age_max"] for row in counted),
        "steps": n,
    }


def run_real(folder: Path, sets: Sequence[str]) -> list[dict[str, Any]]:
    """Run the topology in real processes; return the trainer's rows."""
    told = [word for text in sets for word in ("--set", text)]
    command = [
        *(sys.executable, "-P", "-m", "realnet.cli", "run", str(TOPOLOGY)),
        *("--runs", str(folder), *told),
    ]
    paths = [str(TOPOLOGY.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    lines = next(folder.glob("*/metrics.jsonl")).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["actor"].startswith("trainer/") and "step_s" in row]


def speed_up(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """Return by what factor a row's steps are faster than those of η = 0 of the same size."""
    for other in rows:
        if _size(other) == _size(row) and other["eta"] == 0:
            return float(other["step_s"] / row["step_s"])
    return None


def _size(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["generators"], row["slots"], row["virtual"]


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures."""
    rows = [r for r in measured.get("rows", []) if r["over_age"] == "mask"]

    def find(generators: int, eta: int) -> dict[str, Any] | None:
        wanted = [r for r in rows if r["generators"] == generators and r["eta"] == eta]
        return min(wanted, key=lambda r: r["virtual"], default=None)  # real time first

    found: dict[str, float | None] = {}
    for eta in (1, 2):
        row = find(4, eta)
        found[f"async_speedup_eta{eta}"] = speed_up(rows, row) if row else None
    for generators in (4, 32, 256):
        for eta, name in ((2, ""), (1, "_eta1")):
            row = find(generators, eta)
            found[f"bound_fraction_{generators}{name}"] = row["bound"] if row else None
    return found


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the table in Markdown."""
    rows = measured.get("rows", [])
    if not rows:
        return []
    out = [
        f"Lengths lognormal (σ = 1, mean 64 tokens, cap 8 times the mean), groups of {GROUP}, "
        f"{FILL} answers of a batch a slot, a step of the trainer takes {RATIO:g} of generating "
        f"its batch; blocks of {BLOCK} tokens, due at fixed times: what the host is late by is "
        "made up for, up to a block, as a device goes on without its host. The first third of a "
        "run's steps is not counted. Bound: max(generation at full slots, step) / time of a step.",
        "",
        "| generators x slots | B | time, tokens/s a slot | over_age | η | s/step | speed-up | "
        "of the bound | tokens masked | oldest token | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gain = speed_up(rows, row)
        out.append(
            f"| {row['generators']} x {row['slots']} | {row['batch']} | "
            f"{'virtual' if row['virtual'] else 'real'}, {row['rate']:g}/s | "
            f"{row['over_age']} | {row['eta']} | "
            f"{row['step_s']:.2f} | {gain:.2f} | {100 * row['bound']:.0f} % | "
            f"{100 * row['masked']:.1f} % | {row['age_max']:.0f} | {row['load']} |"
        )
    return out
