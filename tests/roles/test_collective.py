"""Broadcasts over gloo between real processes: whole, damaged, a sender killed, a member frozen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gloo_member
import pytest

pytest.importorskip("torch")

import torch

from realnet.roles.weights import collective, nccl
from realnet.roles.weights.collective import CollectiveFailed, Group, Store, reach_store

MEMBER = Path(__file__).parent.parent / "gloo_member.py"
Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[subprocess.Popen[str]] = []

    def begin(*told: object) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", str(MEMBER), *map(str, told)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def group(start: Start, folder: Path, epochs: int, send: str, *receive: str) -> list[str]:
    """Run a sender and receivers, each with what it does wrong; return what receivers said.

    One that stops is left standing.
    """
    place, size = folder / "place", 1 + len(receive)
    sender = start("send", place, size, epochs, send)
    while not place.exists():
        assert sender.poll() is None
        time.sleep(0.05)
    members = [
        start("receive", place.read_text(), rank, size, epochs, what)
        for rank, what in enumerate(receive, 1)
    ]
    said = []
    for member, what in zip(members, receive, strict=True):
        if what == "stop":
            continue
        said.append(member.communicate()[0])
    if send != "die" and "stop" not in receive:
        assert sender.wait() == 0
    return said


def test_corrupt_bytes_are_found_by_every_receiver_and_the_next_version_comes(
    start: Start, tmp_path: Path
) -> None:
    said = group(start, tmp_path, 2, "corrupt", "well", "well")
    for text in said:
        lines = text.splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            *("got 2", "damaged 3", "got 4", "got 5")
        ]
        assert "digest differs in bucket" in lines[1]


def test_a_sender_killed_in_mid_bucket_fails_every_receiver(start: Start, tmp_path: Path) -> None:
    said = group(start, tmp_path, 1, "die", "well", "well")
    for text in said:
        first, second = text.splitlines()
        assert first == "got 2"
        assert second.startswith("failed CollectiveFailed: p v0.3 in epoch 1: ")


def test_one_that_stands_still_fails_the_others_and_holds_nobody_for_ever(
    start: Start, tmp_path: Path
) -> None:
    said = group(start, tmp_path, 1, "well", "well", "stop")
    assert said[0].startswith("got 2\nfailed CollectiveFailed: p v0.3 in epoch 1: ")


def test_nccl_without_a_gpu_and_a_group_that_nobody_joins_are_refused() -> None:
    store = Store("127.0.0.1")
    with pytest.raises(CollectiveFailed, match="needs a GPU in every member"):
        Group("nccl", store.store, 1, 0, 2, timeout_s=1.0)
    with pytest.raises(CollectiveFailed, match="epoch 3 did not come together"):
        Group("gloo", store.store, 3, 0, 2, timeout_s=1.0)


class Gpu:
    """What of torch the code for NCCL calls, without a GPU: it remembers how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[dict[str, str], Any]] = []  # the environment and options of groups
        self.streams: list[str] = []  # of which stream what was asked of the GPU
        self.on = "common"
        group = type("ProcessGroupNCCL", (), {"__new__": self._group, "Options": self._options})
        monkeypatch.setattr(
            nccl, "dist", SimpleNamespace(ProcessGroupNCCL=group, is_nccl_available=lambda: True)
        )
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"own of {device}")
        monkeypatch.setattr(torch.cuda, "stream", lambda name: _Stream(self, name))

    def _options(self) -> Any:
        return SimpleNamespace(_timeout=None, config=SimpleNamespace(blocking=None))

    def _group(self, _: type, store: Any, rank: int, size: int, options: Any) -> Any:
        self.made.append((dict(os.environ), options))
        return SimpleNamespace(broadcast=self._broadcast, abort=lambda: None)

    def _broadcast(self, tensors: list[Any], options: Any) -> Any:
        self.streams.append(self.on)
        return SimpleNamespace(wait=lambda timeout: self.streams.append(self.on))


class _Stream:
    """As torch.cuda's: entered again and again, of one thread at a time."""

    def __init__(self, gpu: Gpu, name: str) -> None:
        self._gpu, self._name = gpu, name

    def __enter__(self) -> None:
        self._gpu.on = self._name

    def __exit__(self, *error: object) -> None:
        self._gpu.on = "common"


def test_a_group_of_nccl_fails_in_its_own_thread_and_keeps_off_the_engines_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", "0")  # a trainer's own choice
    monkeypatch.delenv("TORCH_NCCL_NONBLOCKING_TIMEOUT", raising=False)
    gpu = Gpu(monkeypatch)
    made = Group("nccl", Store("127.0.0.1").store, 1, 0, 2, timeout_s=6.5)
    assert made.device == torch.device("cuda", 0), "whatever a thread has as its current one"
    ((environment, options),) = gpu.made
    assert environment["TORCH_NCCL_BLOCKING_WAIT"] == "1", "no watchdog, which ends the process"
    assert os.environ["TORCH_NCCL_BLOCKING_WAIT"] == "0"
    assert options.config.blocking == 0, "who does not come is given up"
    assert environment["TORCH_NCCL_NONBLOCKING_TIMEOUT"] == "7"
    assert options._timeout == timedelta(seconds=6.5)
    manifest, room = gloo_member.version(2)
    made.device = torch.device("cpu")  # where there is memory
    made.send(manifest, memoryview(room))
    assert gpu.streams == ["own of cuda:0"] * 2 * len(manifest.buckets)
    assert gpu.on == "common"


def test_buckets_that_lie_on_a_gpu_on_their_way_are_the_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two buckets are under way and have two places in turn: gloo carries them here."""
    Gpu(monkeypatch)
    monkeypatch.setattr(nccl, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(nccl, "group", lambda *about: collective._gloo(*about, host="127.0.0.1"))
    sender = Store("127.0.0.1")

    def member(rank: int) -> bytes:
        # Each its own way to the store: who waits at it holds it.
        store = reach_store(sender.host, sender.port, 30.0) if rank else sender.store
        group = Group("nccl", store, 1, rank, 3, timeout_s=30.0)
        for number in (2, 3):
            manifest, room = gloo_member.version(number)
            assert len(manifest.buckets) > 2 * collective.IN_FLIGHT
            if rank == 0:
                group.send(manifest, memoryview(bytes(room)))
            else:
                room[:] = bytes(len(room))
                group.receive(manifest, room)
        group.close()
        return bytes(room)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(member, range(3)))
    assert found == [bytes(gloo_member.version(3)[1])] * 3


def test_what_is_still_under_way_is_ended_while_it_has_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    made = Group("nccl", Store("127.0.0.1").store, 1, 0, 2, timeout_s=1.0)
    made.device, waits, memory = torch.device("cpu"), [], []

    def fails(timeout: timedelta) -> None:
        raise RuntimeError("timed out\nC++ frames")

    def broadcast(tensors: list[Any], options: Any) -> Any:
        memory.append(weakref.ref(tensors[0].untyped_storage()))
        return SimpleNamespace(wait=fails)

    assert made._group is not None
    made._group.broadcast = broadcast
    made._group.abort = lambda: waits.append([ref() is not None for ref in memory])
    manifest, room = gloo_member.version(2)
    with pytest.raises(CollectiveFailed, match=r"p v0\.2 in epoch 1: timed out$"):
        made.send(manifest, memoryview(room))
    assert waits == [[True, True]], "two in flight, both in memory of their own"
    assert gpu.on == "common"
    with pytest.raises(CollectiveFailed, match="epoch 1 was dropped"):
        made.send(manifest, memoryview(room))


def test_the_store_listens_on_its_own_address_only() -> None:
    store = Store("127.0.0.1")
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    lines += Path("/proc/net/tcp6").read_text(encoding="ascii").splitlines()[1:]
    listening = [w[1] for w in map(str.split, lines) if w[3] == "0A"]
    mine = [a for a in listening if int(a.rpartition(":")[2], 16) == store.port]
    assert mine == [f"0100007F:{store.port:04X}"]
