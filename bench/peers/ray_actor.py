"""What a user writes with Ray, both ways; the faster one of the two counts.

`RAY=async`: an async actor that an async driver awaits. `RAY=sync`: a plain actor and batches of
calls that one `ray.get` waits for (a window of calls and `ray.wait` for the arrays).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import ray
from measure import (
    ARRAY_BYTES,
    ARRAY_WINDOW,
    TEXT,
    WARM_SHARE,
    WINDOWS,
    Arrays,
    Rows,
    array_rows,
    cpu_s,
    make_arrays,
    measure,
    quantiles_us,
    read_task,
    touch,
    write_rows,
)

MESSAGE = {"number": 1, "text": TEXT}


@ray.remote
class Sync:
    def pid(self) -> int:
        return os.getpid()

    def echo(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"number": message["number"], "text": message["text"]}

    def arrays(self, arrays: Arrays) -> int:
        return touch(arrays.values())


@ray.remote
class Async:
    async def pid(self) -> int:
        return os.getpid()

    async def echo(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"number": message["number"], "text": message["text"]}

    async def arrays(self, arrays: Arrays) -> int:
        return touch(arrays.values())


def batches(server: Any, window: int, seconds: float, pids: list[int]) -> tuple[float, float]:
    for part_s in (seconds * WARM_SHARE, seconds):
        count, before_s, start_s = 0, cpu_s(pids), time.perf_counter()
        while time.perf_counter() - start_s < part_s:
            ray.get([server.echo.remote(MESSAGE) for _ in range(window)])
            count += window
    took_s = time.perf_counter() - start_s
    return count / took_s, (cpu_s(pids) - before_s) / count * 1e6


def rolling(
    send: Callable[[], Any], window: int, seconds: float, pids: list[int]
) -> tuple[float, float]:
    under_way = [send() for _ in range(window)]
    for part_s in (seconds * WARM_SHARE, seconds):
        count, before_s, start_s = 0, cpu_s(pids), time.perf_counter()
        while time.perf_counter() - start_s < part_s:
            done, under_way = ray.wait(under_way, num_returns=1)
            ray.get(done)
            under_way.append(send())
            count += 1
    took_s, used_s = time.perf_counter() - start_s, cpu_s(pids) - before_s
    ray.get(under_way)
    return count / took_s, used_s / count * 1e6


def one_by_one(server: Any, seconds: float, pids: list[int]) -> Rows:
    for part_s in (seconds * WARM_SHARE, seconds):
        samples_ns, before_s = [], cpu_s(pids)
        end_ns = time.perf_counter_ns() + int(part_s * 1e9)
        now_ns = time.perf_counter_ns()
        while now_ns < end_ns:
            before_ns = now_ns
            ray.get(server.echo.remote(MESSAGE))
            now_ns = time.perf_counter_ns()
            samples_ns.append(now_ns - before_ns)
    p50_us, p99_us = quantiles_us(samples_ns)
    cpu_us = (cpu_s(pids) - before_s) / len(samples_ns) * 1e6
    return {"w1_p50_us": p50_us, "w1_p99_us": p99_us, "w1_cpu_us": cpu_us}


def main() -> None:
    task = read_task()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        if os.environ.get("RAY") == "async":
            rows = asyncio.run(asynchronous(task))
        else:
            rows = synchronous(task)
        write_rows(task.out, rows)
    finally:
        ray.shutdown()


async def asynchronous(task: Any) -> Rows:
    server = Async.remote()
    pids = [os.getpid(), await server.pid.remote()]

    async def echo() -> None:
        await server.echo.remote(MESSAGE)

    async def arrays(record: Arrays) -> None:
        await server.arrays.remote(record)

    return await measure(task, echo, arrays, pids)


def synchronous(task: Any) -> Rows:
    server = Sync.remote()
    pids = [os.getpid(), ray.get(server.pid.remote())]
    rows: Rows = {}
    if "w1" in task.measures:
        rows |= one_by_one(server, task.seconds, pids)
    for name, window in WINDOWS.items():
        if name in task.measures:
            got = batches(server, window, task.seconds, pids)
            rows[f"{name}_per_s"], rows[f"{name}_cpu_us"] = got
    for name, num_bytes in ARRAY_BYTES.items():
        if name in task.measures:
            record = make_arrays(num_bytes)
            got = rolling(
                lambda r=record: server.arrays.remote(r), ARRAY_WINDOW, task.seconds, pids
            )
            rows |= array_rows(name, *got)
    return rows


if __name__ == "__main__":
    main()
