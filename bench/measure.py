"""What is measured and how, the same for realnet and for every peer: payloads, windows, clocks.

A measured program hands in two coroutines, one that sends about 100 bytes and waits for the reply
and one that sends six arrays and waits for a small reply, and gets its rows back. Everything is
warmed up before it is measured.

Knows nothing of realnet or of any peer. Imported by `wire_roles.py` and by every program in
`peers/`; `variants.py` starts those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Rows = dict[str, float]
Arrays = dict[str, npt.NDArray[Any]]
Send = Callable[[], Awaitable[Any]]

TEXT = "a question of about one hundred bytes, as most control messages are: " + 20 * "x"
ARRAY_WINDOW = 4
ARRAY_BYTES = {"a256k": 256 * 1024, "a8m": 8 * 2**20}
WINDOWS = {"w64": 64, "w1024": 1024}
MEASURES = ("w1", *WINDOWS, *ARRAY_BYTES)
WARM_SHARE = 0.25  # of the measured time, spent first and thrown away
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FIELDS = ("tokens", "logprobs", "advantages", "versions", "mask", "rewards")
DTYPES = (np.int32, np.float32, np.float32, np.int32, np.uint8, np.float32)


class Task(NamedTuple):
    """What one measured program is asked for: where its rows go, seconds for each measure."""

    out: Path
    seconds: float
    measures: tuple[str, ...]


def read_task() -> Task:
    """Read the command line of a program in `peers/`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--measures", default=",".join(MEASURES))
    known = parser.parse_args()
    return Task(known.out, known.seconds, tuple(known.measures.split(",")))


def write_rows(out: Path, rows: Rows) -> None:
    """Write the rows where `variants.py` looks for them, whole or not at all."""
    part = out.with_suffix(".part")
    part.write_text(json.dumps(rows), encoding="utf-8")
    part.replace(out)


def make_arrays(num_bytes: int) -> Arrays:
    """Return six arrays with `num_bytes` bytes in all, as a trajectory has them."""
    each = num_bytes // len(_FIELDS)
    return {
        name: np.ones(each // np.dtype(dtype).itemsize, dtype)
        for name, dtype in zip(_FIELDS, DTYPES, strict=True)
    }


def touch(arrays: Iterable[npt.NDArray[Any]]) -> int:
    """Look at both ends of every array, so that it must have come; return their bytes."""
    num_bytes = 0
    for array in arrays:
        if array[0] != 1 or array[-1] != 1:
            raise ValueError("an array came damaged")
        num_bytes += array.nbytes
    return num_bytes


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes have used, all threads, user and system."""
    total = 0.0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(words[11]) + int(words[12])) / _TICKS_PER_S
    return total


def quantiles_us(samples_ns: Sequence[int]) -> tuple[float, float]:
    """Return p50 and p99 in microseconds."""
    if len(samples_ns) < 2:
        raise ValueError("too few samples: measure longer")
    return (
        statistics.median(samples_ns) / 1e3,
        statistics.quantiles(samples_ns, n=100, method="inclusive")[98] / 1e3,
    )


async def latencies_ns(send: Send, seconds: float) -> list[int]:
    """Send one after the other for so long; return how long each took."""
    samples = []
    end_ns = time.perf_counter_ns() + int(seconds * 1e9)
    now_ns = time.perf_counter_ns()
    while now_ns < end_ns:
        before_ns = now_ns
        await send()
        now_ns = time.perf_counter_ns()
        samples.append(now_ns - before_ns)
    return samples


class Rate(NamedTuple):
    """What `window` senders did: replies a second, and CPU microseconds for each."""

    per_s: float
    cpu_us: float


async def rate(send: Send, window: int, seconds: float, pids: Sequence[int]) -> Rate:
    """Let `window` tasks send one after the other, each waiting for its reply."""
    count, going = 0, True

    async def sender() -> None:
        nonlocal count
        while going:
            await send()
            count += 1

    tasks = [asyncio.ensure_future(sender()) for _ in range(window)]
    await asyncio.sleep(seconds * WARM_SHARE)
    before, before_cpu_s, start_s = count, cpu_s(pids), time.perf_counter()
    await asyncio.sleep(seconds)
    done, used_s, took_s = count - before, cpu_s(pids) - before_cpu_s, time.perf_counter() - start_s
    going = False
    await asyncio.gather(*tasks)
    return Rate(done / took_s, used_s / max(done, 1) * 1e6)


async def measure(
    task: Task, echo: Send, arrays: Callable[[Arrays], Awaitable[Any]], pids: Sequence[int]
) -> Rows:
    """Return the rows of one program: `pids` are the processes whose CPU counts."""
    rows: Rows = {}
    if "w1" in task.measures:
        await latencies_ns(echo, task.seconds * WARM_SHARE)
        before_s = cpu_s(pids)
        samples_ns = await latencies_ns(echo, task.seconds)
        rows["w1_cpu_us"] = (cpu_s(pids) - before_s) / len(samples_ns) * 1e6
        rows["w1_p50_us"], rows["w1_p99_us"] = quantiles_us(samples_ns)
    for name, window in WINDOWS.items():
        if name in task.measures:
            got = await rate(echo, window, task.seconds, pids)
            rows[f"{name}_per_s"], rows[f"{name}_cpu_us"] = got
    for name, num_bytes in ARRAY_BYTES.items():
        if name in task.measures:
            record = make_arrays(num_bytes)
            got = await rate(lambda r=record: arrays(r), ARRAY_WINDOW, task.seconds, pids)  # type: ignore[misc]
            rows |= array_rows(name, got.per_s, got.cpu_us)
    return rows


def array_rows(name: str, per_s: float, cpu_us: float) -> Rows:
    """Return MB/s and CPU seconds for each GB of an array measure."""
    num_mb = ARRAY_BYTES[name] / 1e6
    return {f"{name}_mb_per_s": per_s * num_mb, f"{name}_cpu_s_per_gb": cpu_us / num_mb / 1e3}
