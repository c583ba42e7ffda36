"""The transfer back end alone: what a worker answers, and what it loads. The model is pretended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from pretend_gpu import PretendDevice

from realnet.roles.generator.vllm import transfer
from realnet.roles.generator.vllm.transfer import Apply, Prepare, RealnetTransfer
from realnet.roles.messages import Held, Location, Manifest, Version
from realnet.roles.weights import cuda_ipc, fill, layout
from realnet.roles.weights.lending import SLOT_BYTES, Lender, borrow
from realnet.roles.weights.room import Room
from realnet.roles.weights.sources import this_host

V = Version("p", 0, 4)
WEIGHTS = [("a.weight", torch.arange(12.0).view(3, 4)), ("b.weight", torch.ones(5).bfloat16())]


class Worker:
    """A transfer back end in a worker without a model: what it would load is in `loaded`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[tuple[str, torch.Tensor]] = []
        monkeypatch.setattr(
            transfer, "load", lambda m, mc, vc, weights: self.loaded.extend(weights)
        )
        self.back: Any = object.__new__(RealnetTransfer)
        self.back.model = self.back.model_config = self.back.vllm_config = None
        self.back.device = torch.device("cpu")
        self.back._manifest = self.back._map = self.back._lent = self.back._checking = None
        self.back._damage = ""

    def prepare(self, **told: str) -> bytes:
        """What it answers."""
        read, write = os.pipe()
        try:
            self.back.init_transfer_engine(Prepare(tell=f"/proc/self/fd/{write}", **told))
            if self.back._checking is not None:
                self.back._checking.join()
            return os.read(read, 4096)
        finally:
            os.close(read)
            os.close(write)

    def apply(self) -> None:
        self.back.receive_weights(Apply(version=str(V)))


def plan() -> Manifest:
    return layout(V, [("a.weight", "float32", (3, 4)), ("b.weight", "bfloat16", (5,))])


def check(worker: Worker) -> None:
    assert [name for name, _ in worker.loaded] == ["a.weight", "b.weight"]
    for (_, found), (_, wanted) in zip(worker.loaded, WEIGHTS, strict=True):
        assert torch.equal(found, wanted)
        assert found.dtype == wanted.dtype


def test_a_worker_says_which_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch)
    assert worker.prepare(path="", manifest="") == b"=\n", "it is on a CPU"
    monkeypatch.setattr(cuda_ipc, "uuid_of", lambda device: "GPU-0")
    assert worker.prepare(path="", manifest="") == b"=GPU-0\n"


def test_a_room_is_mapped_checked_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, room = Worker(monkeypatch), Room()
    arrays = [WEIGHTS[0][1].numpy(), WEIGHTS[1][1].view(torch.uint16).numpy()]
    manifest = fill(plan(), room.make(plan().num_bytes), arrays)
    told = {"path": room.path, "manifest": msgspec.json.encode(manifest).decode()}
    room.view()[3] ^= 1
    assert b"digest differs" in worker.prepare(**told)
    with pytest.raises(ValueError, match="is not used"):
        worker.apply()
    room.view()[3] ^= 1
    assert worker.prepare(**told) == b"+"
    worker.apply()
    check(worker)
    worker.back.finish_weight_update()
    with pytest.raises(ValueError, match="was not prepared"):
        worker.apply()
    room.close()


def test_a_loan_is_opened_checked_and_loaded_from_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = PretendDevice(tmp_path)
    (tmp_path / "guard").write_bytes(bytes(SLOT_BYTES))
    lender = Lender(gpu, this_host(), str(tmp_path / "guard"))
    worker, manifest = Worker(monkeypatch), plan()
    source = lender.offer(manifest, WEIGHTS)
    assert source is not None
    loan = borrow(Held(manifest, Location("", 0, 0), (source,)), source, None)
    told = {
        "path": "",
        "manifest": msgspec.json.encode(manifest).decode(),
        "loan": msgspec.json.encode(loan.handle).decode(),
    }
    assert b"which this process does not see" in worker.prepare(**told)
    monkeypatch.setattr(cuda_ipc, "device", lambda uuid: gpu)
    buffer = lender._buffer
    assert buffer is not None
    buffer[7] ^= 1
    assert b"is damaged" in worker.prepare(**told)
    buffer[7] ^= 1
    assert worker.prepare(**told) == b"+"
    worker.apply()
    check(worker)
    worker.back.finish_weight_update()
    assert worker.back._lent is None
    loan.end()
    lender.close()
