"""`make bench-adapters`: what a version of adapters moves, and what laying it over its base costs.

    adapters.py [--mib N] [--rank N] [--rounds N] [--folder F]

adapters_share            bytes of a version, as a share of the whole model's
adapters_core_s_per_gb    CPU seconds, all threads, for each 10^9 bytes of whole weights (bf16)
adapters_weights_per_s    weights that one core lays over in a second; median of rounds

CPU time is taken, since that is what other work on the machine changes least. Into
runs/bench/weights.json, beside what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from realnet.roles.messages import Manifest, Over, Version
from realnet.roles.weights import fill, layout
from realnet.roles.weights.adapters import DOWN, UP, base_version, whole_layout
from realnet.roles.weights.layout import Array
from realnet.roles.weights.merging import lay_over, narrowed, threads

WIDTH = 2048  # of the matrices: as in a model of 1.5 or 3 billion weights
VERSION = Version("policy", 0, 1)


def made(version: Version, arrays: dict[str, Array], dtype: str) -> tuple[Manifest, bytearray]:
    plan = layout(version, ((name, dtype, array.shape) for name, array in arrays.items()))
    room = bytearray(plan.num_bytes)
    return fill(plan, memoryview(room), arrays.values()), room


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=512, help="of the whole weights, in bf16")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "runs/bench")
    arguments = parser.parse_args()
    draw, rank = np.random.default_rng(0), arguments.rank
    layers = range(max(1, arguments.mib * 2**20 // (2 * WIDTH * WIDTH)))

    def bf16(*shape: int) -> Array:
        return narrowed(draw.standard_normal(shape, np.float32))

    base = made(base_version(VERSION), {f"{i}.weight": bf16(WIDTH, WIDTH) for i in layers}, "bf16")
    pairs = {f"{i}{DOWN}": bf16(rank, WIDTH) for i in layers}
    pairs |= {f"{i}{UP}": bf16(WIDTH, rank) for i in layers}
    manifest, laid = made(VERSION, pairs, "bf16")
    over = Over(base[0].version, base[0].digest, rank, 2 * rank, "bfloat16")
    manifest = msgspec.structs.replace(manifest, over=over)
    out = bytearray(whole_layout(base[0], manifest).num_bytes)
    taken_s, wall_s = [], []
    for _ in range(arguments.rounds + 1):
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        lay_over(base[0], memoryview(base[1]), manifest, laid, memoryview(out))
        taken_s.append(time.process_time() - cpu_s)
        wall_s.append(time.perf_counter() - begun_s)
    middle_s = statistics.median(taken_s[1:])
    found = {
        "adapters_share": manifest.num_bytes / len(out),
        "adapters_core_s_per_gb": middle_s / (len(out) / 1e9),
        "adapters_weights_per_s": len(out) / 2 / middle_s,
        "adapters_rank": rank,
    }
    for name, value in found.items():
        print(f"{name:<26} {value:,.4g}")
    print(
        f"{len(out) / 2**20:.0f} MiB on {threads()} threads: {statistics.median(wall_s[1:]):.2f} s"
    )
    arguments.folder.mkdir(parents=True, exist_ok=True)
    flat = arguments.folder / "weights.json"
    kept = json.loads(flat.read_text(encoding="utf-8")) if flat.is_file() else {}
    flat.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
