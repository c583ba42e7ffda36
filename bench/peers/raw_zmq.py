"""The floor: blocking pyzmq ROUTER/DEALER, an echo of bytes with no correlation and no codec.

`RAW=tcp` takes tcp on the loopback, otherwise ipc. The arrays go as one small frame and six large
ones that nobody copies; the reply is small.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq
from measure import (
    ARRAY_BYTES,
    ARRAY_WINDOW,
    DTYPES,
    TEXT,
    WARM_SHARE,
    WINDOWS,
    Rows,
    array_rows,
    cpu_s,
    make_arrays,
    quantiles_us,
    read_task,
    touch,
    write_rows,
)

ECHO = b"e" + TEXT.encode()
ARRAYS = b"a" + TEXT.encode()
LOOK_EVERY = 64  # looking at the clock costs something


def serve(endpoint: str) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.SNDHWM, 0)
    socket.bind(endpoint)
    print(socket.get_string(zmq.LAST_ENDPOINT), flush=True)
    while True:
        who = socket.recv()
        what = socket.recv()
        if what[:1] == b"a":
            touch([np.frombuffer(socket.recv(copy=False).buffer, dtype) for dtype in DTYPES])
            what = b"ok"
        socket.send(who, zmq.SNDMORE)
        socket.send(what)


def client(endpoint: str) -> zmq.Socket[bytes]:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVTIMEO, 20_000)  # a server that is gone must not hold up the round
    socket.connect(endpoint)
    return socket


def windowed(
    socket: zmq.Socket[bytes], send: Callable[[], Any], window: int, seconds: float, pids: list[int]
) -> tuple[float, float]:
    """Keep `window` messages under way; return replies a second and CPU microseconds for each."""
    for _ in range(window):
        send()
    for part_s in (seconds * WARM_SHARE, seconds):
        count, before_cpu_s, start_s = 0, cpu_s(pids), time.perf_counter()
        look = LOOK_EVERY if window >= LOOK_EVERY else 1
        while time.perf_counter() - start_s < part_s:
            for _ in range(look):
                socket.recv()
                send()
            count += look
    took_s, used_s = time.perf_counter() - start_s, cpu_s(pids) - before_cpu_s
    for _ in range(window):
        socket.recv()
    return count / took_s, used_s / count * 1e6


def main() -> None:
    task = read_task()
    with tempfile.TemporaryDirectory() as folder:
        tcp = os.environ.get("RAW") == "tcp"
        endpoint = "tcp://127.0.0.1:*" if tcp else f"ipc://{folder}/raw"
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", endpoint], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            socket = client(server.stdout.readline().strip())
            pids = [os.getpid(), server.pid]
            rows: Rows = {}
            if "w1" in task.measures:
                rows |= one_by_one(socket, task.seconds, pids)
            for name, window in WINDOWS.items():
                if name in task.measures:
                    got = windowed(socket, lambda: socket.send(ECHO), window, task.seconds, pids)
                    rows[f"{name}_per_s"], rows[f"{name}_cpu_us"] = got
            for name, num_bytes in ARRAY_BYTES.items():
                if name in task.measures:
                    parts = list(make_arrays(num_bytes).values())
                    send = sender(socket, parts)
                    got = windowed(socket, send, ARRAY_WINDOW, task.seconds, pids)
                    rows |= array_rows(name, *got)
            write_rows(task.out, rows)
        finally:
            server.kill()
            server.wait()


def sender(socket: zmq.Socket[bytes], parts: list[Any]) -> Callable[[], Any]:
    def send() -> None:
        socket.send(ARRAYS, zmq.SNDMORE)
        for part in parts[:-1]:
            socket.send(part, zmq.SNDMORE, copy=False)
        socket.send(parts[-1], copy=False)

    return send


def one_by_one(socket: zmq.Socket[bytes], seconds: float, pids: list[int]) -> Rows:
    for part_s in (seconds * WARM_SHARE, seconds):
        samples_ns, before_s = [], cpu_s(pids)
        end_ns = time.perf_counter_ns() + int(part_s * 1e9)
        now_ns = time.perf_counter_ns()
        while now_ns < end_ns:
            before_ns = now_ns
            socket.send(ECHO)
            socket.recv()
            now_ns = time.perf_counter_ns()
            samples_ns.append(now_ns - before_ns)
    p50_us, p99_us = quantiles_us(samples_ns)
    cpu_us = (cpu_s(pids) - before_s) / len(samples_ns) * 1e6
    return {"w1_p50_us": p50_us, "w1_p99_us": p99_us, "w1_cpu_us": cpu_us}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
