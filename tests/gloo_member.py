"""One process of a gloo group, for test_collective.py: reads what to do from its arguments.

send PORT-FILE SIZE EPOCHS [DIE]     receive HOST:PORT RANK SIZE EPOCHS [STOP]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from realnet.errors import RealnetError
from realnet.roles.messages import Manifest, Version
from realnet.roles.weights import WeightsDamaged, check, fill, layout
from realnet.roles.weights.collective import Group, Store, reach_store

TIMEOUT_S = 6.0


def version(number: int) -> tuple[Manifest, bytearray]:
    """Return a version that every process makes for itself."""
    rng = np.random.default_rng(number)
    items = [(f"layers.{i}.w", "float32", (256, 1024)) for i in range(8)] + [
        ("head", "bfloat16", (33,))
    ]
    plan = layout(Version("p", 0, number), items, 2**20)
    arrays = [rng.integers(0, 9, (256, 1024)).astype(np.float32) for _ in range(8)]
    arrays.append(rng.integers(0, 9, 33).astype(np.uint16))
    room = bytearray(plan.num_bytes)
    return fill(plan, memoryview(room), arrays), room


def dies_after(num: int, start: Callable[..., Any]) -> Callable[..., Any]:
    """Return a start of broadcasts that kills this process at its last one."""
    counted = iter(range(num - 1))

    def dies(tensor: Any) -> Any:
        if next(counted, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return start(tensor)

    return dies


def send(port_file: str, size: int, epochs: int, what: str) -> None:
    store = Store("127.0.0.1")
    part = Path(port_file + ".part")
    part.write_text(f"{store.host}:{store.port}")
    part.replace(port_file)
    # Importing torch takes long on a loaded machine; the members of a run meet at a barrier.
    store.store.wait([f"here/{rank}" for rank in range(1, size)], timedelta(seconds=100))
    for epoch in range(1, epochs + 1):
        group = Group("gloo", store.store, epoch, 0, size, timeout_s=TIMEOUT_S)
        for number in (2 * epoch, 2 * epoch + 1):
            manifest, room = version(number)
            if what == "corrupt" and number == 3:
                room[5 * 2**20] ^= 1
            if what == "die" and number == 3:  # in the middle of its buckets
                group._start = dies_after(4, group._start)  # type: ignore[method-assign]
            group.send(manifest, memoryview(room))
        group.close()


def receive(place: str, rank: int, size: int, epochs: int, what: str) -> None:
    host, _, port = place.partition(":")
    store = reach_store(host, int(port), 30.0)
    store.set(f"here/{rank}", "")
    for epoch in range(1, epochs + 1):
        group = Group("gloo", store, epoch, rank, size, timeout_s=TIMEOUT_S)
        for number in (2 * epoch, 2 * epoch + 1):
            manifest, expected = version(number)
            out = bytearray(manifest.num_bytes)
            if what == "stop" and number == 3:
                print("stopping", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            try:
                group.receive(manifest, out)
            except WeightsDamaged as error:
                print(f"damaged {number}: {error}", flush=True)
                continue
            check(manifest, out, "here")
            assert out == expected
            print(f"got {number}", flush=True)
        group.close()


def main() -> None:
    what, *told = sys.argv[1:]
    try:
        if what == "send":
            send(told[0], int(told[1]), int(told[2]), *told[3:])
        else:
            receive(told[0], int(told[1]), int(told[2]), int(told[3]), *told[4:])
    except RealnetError as error:
        print(f"failed {type(error).__name__}: {error}", flush=True)
        os._exit(3)  # not through the end of a process group that waits for the dead


if __name__ == "__main__":
    main()
