"""The other processes of `make bench-gpu`: who borrows a version, and who broadcasts one.

    gpu_ends.py borrow UUID HELD SOURCE ROUNDS [FOLDER]   records as JSON; FOLDER: no real GPU
    gpu_ends.py send BACKEND PLACE-FILE MIB ROUNDS
    gpu_ends.py receive BACKEND PLACE-FILE MIB ROUNDS

Each prints one line of JSON, its figures. Called by `gpu.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from realnet.roles.messages import Held, Manifest, Source, Version
from realnet.roles.weights import cuda_ipc, fill, layout
from realnet.roles.weights.collective import Group, Store, reach_store
from realnet.roles.weights.lending import borrow

TIMEOUT_S = 60.0
_ROWS = 4096  # of float32 a matrix: 4 MiB with 256 columns


def took(work: Callable[[], Any]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def borrows(uuid: str, held: str, source: str, rounds: str, folder: str = "") -> dict[str, Any]:
    """Borrow a version again and again; copy it into memory of our own."""
    device: Any = _pretended(folder, uuid) if folder else cuda_ipc.device(uuid)
    what = msgspec.json.decode(held, type=Held)
    where = msgspec.json.decode(source, type=Source)
    borrow_s, copy_s = [], []
    own: dict[str, torch.Tensor] = {}
    for _ in range(int(rounds)):
        begun_s = time.perf_counter()
        loan = borrow(what, where, device)
        borrow_s.append(time.perf_counter() - begun_s)
        views = loan.tensors(what.manifest)
        if not own:
            own = {name: torch.empty_like(view) for name, view in views.items()}
            device.finish()
        begun_s = time.perf_counter()
        for name, view in views.items():
            own[name].copy_(view)
        loan.end()  # waits for the GPU
        copy_s.append(time.perf_counter() - begun_s)
    return {"borrow_s": borrow_s, "copy_s": copy_s}


def _pretended(folder: str, uuid: str) -> Any:
    from pretend_gpu import PretendDevice

    return PretendDevice(Path(folder), uuid)


def version(mib: int) -> tuple[Manifest, bytearray]:
    """Return a version that both ends make alike."""
    items = [(f"layers.{n}.w", "float32", (_ROWS, 256)) for n in range(max(1, mib // 4))]
    plan = layout(Version("policy", 0, 1), items)
    part = np.random.default_rng(0).standard_normal((_ROWS, 256), np.float32)
    room = bytearray(plan.num_bytes)
    return fill(plan, memoryview(room), (part for _ in items)), room


def sends(backend: str, place: str, mib: str, rounds: str) -> dict[str, Any]:
    manifest, room = version(int(mib))
    store = Store("127.0.0.1")
    part = Path(place + ".part")
    part.write_text(f"{store.host}:{store.port}")
    part.replace(place)
    group = _group(backend, store.store, 0)
    taken = [took(lambda: group.send(manifest, memoryview(room))) for _ in range(int(rounds))]
    store.store.wait(["done"])
    group.close()
    return {"send_s": taken, "bytes": manifest.num_bytes}


def receives(backend: str, place: str, mib: str, rounds: str) -> dict[str, Any]:
    manifest, room = version(int(mib))
    whole = bytes(room)
    while not Path(place).exists():
        time.sleep(0.05)
    host, _, port = Path(place).read_text().partition(":")
    store = reach_store(host, int(port), TIMEOUT_S)
    group, taken = _group(backend, store, 1), []
    for _ in range(int(rounds)):
        room[:] = bytes(len(room))
        taken.append(took(lambda: group.receive(manifest, room)))  # its digest is checked
    store.set("done", "1")
    group.close()
    return {"receive_s": taken, "equal": bytes(room) == whole}


def _group(backend: str, store: Any, rank: int) -> Group:
    kind: Any = backend
    return Group(kind, store, 1, rank, 2, timeout_s=TIMEOUT_S)


if __name__ == "__main__":
    what, *told = sys.argv[1:]
    print(json.dumps({"borrow": borrows, "send": sends, "receive": receives}[what](*told)))
