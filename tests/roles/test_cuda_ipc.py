"""Versions lent on a GPU: by one that is pretended, and, where there is one, by CUDA itself."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pretend_gpu import PretendDevice

from realnet.errors import RealnetError
from realnet.roles.messages import Held, Location, Manifest, Source, Version
from realnet.roles.weights import WeightsDamaged, WeightsGone, layout
from realnet.roles.weights.cuda_ipc import CudaDevice, DeviceHandle, device, uuid_of
from realnet.roles.weights.lending import SLOT_BYTES, Lender, borrow, fingerprint
from realnet.roles.weights.sources import this_host

torch = pytest.importorskip("torch")
GPU = torch.cuda.is_available()
ITEMS = [("w", "float32", (300, 5)), ("b", "bfloat16", (7,)), ("none", "float32", (0, 3))]


def manifest(number: int) -> Manifest:
    return layout(Version("p", 0, number), ITEMS)


def weights(number: int) -> list[tuple[str, Any]]:
    return [
        ("w", torch.full((300, 5), float(number))),
        ("b", torch.arange(7).bfloat16() + number),
        ("none", torch.zeros(0, 3)),
    ]


class Host:
    """A lender, its guard and the GPU that it lends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gpu = PretendDevice(folder)
        self.guard = folder / "guard"
        self.guard.write_bytes(bytes(SLOT_BYTES))
        self.lender = self.begin()

    def begin(self) -> Lender:
        self.lender = Lender(self.gpu, this_host(), str(self.guard))
        return self.lender

    def lend(self, number: int) -> tuple[Held, Source] | None:
        source = self.lender.offer(manifest(number), weights(number))
        if source is None:
            return None
        return Held(manifest(number), Location("", 0, 0), (source,)), source

    def lent(self, number: int) -> tuple[Held, Source]:
        found = self.lend(number)
        assert found is not None
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.lender.close()


def test_what_is_lent_is_the_version_and_moves_nowhere(host: Host) -> None:
    held, source = host.lent(3)
    assert (source.link, source.at, source.host) == ("cuda_ipc", "GPU-0", this_host())
    assert host.gpu.finished == 1, "before it is said to be there"
    loan = borrow(held, source, host.gpu)
    found = loan.tensors(held.manifest)
    for name, weight in weights(3):
        assert torch.equal(found[name], weight)
        assert found[name].dtype == weight.dtype
    assert host.gpu.opened == 0, "nobody opens a handle of its own process"
    host.gpu.finishing = lambda: host.lend(4) is None
    loan.end()
    loan.end()
    assert host.gpu.finished == 2, "copies that were asked for are made"
    assert host.gpu.finishing_said == [True], "and only then it may be written again"
    with pytest.raises(RealnetError, match="was borrowed for another process"):
        loan.tensors(held.manifest)


def test_while_a_loan_is_out_nothing_is_written_and_nobody_waits(host: Host) -> None:
    held, source = host.lent(1)
    loan = borrow(held, source, host.gpu)
    assert host.lend(2) is None
    assert torch.equal(loan.tensors(held.manifest)["w"], weights(1)[0][1])
    with pytest.raises(WeightsGone, match=r"no longer holds p v0\.1"):
        borrow(held, source, host.gpu)  # it was begun again: nobody new is let in
    loan.end()
    later, its = host.lent(3)
    assert float(borrow(later, its, host.gpu).tensors(later.manifest)["w"][0, 0]) == 3.0
    with pytest.raises(WeightsGone):
        borrow(held, source, host.gpu)


def test_a_borrower_that_is_killed_holds_nobody_up(host: Host) -> None:
    held, source = host.lent(1)
    words = [msgspec.json.encode(record).decode() for record in (held, source)]
    program = Path(__file__).parent.parent / "pretend_gpu.py"
    child = subprocess.Popen(
        [sys.executable, str(program), str(host.folder), *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "1.0\n", "it opened the handle of another process"
        assert host.lend(2) is None
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    host.lent(3)


def test_a_lender_that_was_started_again_lends_anew_and_what_was_lent_is_gone(host: Host) -> None:
    held, source = host.lent(1)
    host.lender.close()
    host.begin()
    again, its = host.lent(1)
    with pytest.raises(WeightsGone):
        borrow(held, source, host.gpu)
    borrow(again, its, host.gpu).end()
    host.guard.unlink()
    with pytest.raises(WeightsGone, match="its guard cannot be opened"):
        borrow(again, its, host.gpu)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_byte_is_found_wherever_it_is(seed: int, host: Host) -> None:
    draw = random.Random(seed)
    held, source = host.lent(1)
    buffer = np.memmap(host.folder / "gpu-0", np.uint8)
    at = draw.randrange(held.manifest.num_bytes)
    buffer[at] ^= 1 << draw.randrange(8)
    with pytest.raises(WeightsDamaged, match=r"p v0\.1 on GPU GPU-0 is damaged"):
        borrow(held, source, host.gpu)
    assert host.lend(2) is not None, "whoever refused it holds nothing"


def test_a_fingerprint_knows_places_and_no_order_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 8 * 999, np.uint8))
    whole = fingerprint(data)
    from realnet.roles.weights import lending

    for words in (1, 7, 998):
        monkeypatch.setattr(lending, "_WORDS", words)
        assert fingerprint(data) == whole
    swapped = data.view(torch.int64).clone()
    swapped[[3, 900]] = swapped[[900, 3]]
    assert fingerprint(swapped.view(torch.uint8)) != whole
    assert fingerprint(torch.zeros(0, dtype=torch.uint8)) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"host": "elsewhere"}, "are of host elsewhere, and this is"),
        ({"user": os.getuid() + 1}, r"are of user \d+, and this is"),
        ({"device": "GPU-9"}, "are on GPU GPU-9, and this process works on GPU-0"),
        ({"pid": os.getpid(), "share": 10**6}, "are not shared any more"),
    ],
)
def test_another_host_user_or_gpu_is_refused(change: dict[str, Any], says: str, host: Host) -> None:
    held, source = host.lent(1)
    loan = borrow(held, source, None)
    handle = msgspec.structs.replace(loan.handle, **change)
    with pytest.raises(RealnetError, match=says):
        host.gpu.open(handle)
    decoded = msgspec.json.decode(msgspec.json.encode(loan.handle), type=DeviceHandle)
    assert decoded == loan.handle, "it travels to vLLM's worker as JSON"
    loan.end()


def test_weights_in_another_order_than_the_version_are_refused(host: Host) -> None:
    with pytest.raises(RealnetError, match="none is not the w that is next"):
        host.lender.offer(manifest(1), weights(1)[::-1])


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(RealnetError, match="needs a GPU that both roles share"):
        CudaDevice()
    with pytest.raises(RealnetError, match="on GPU abc, which this process does not see"):
        device("abc")
    assert uuid_of(torch.device("cpu")) == ""


CHILD = """
import sys, msgspec
from realnet.roles.weights.cuda_ipc import DeviceHandle, device
handle = msgspec.json.decode(sys.stdin.read(), type=DeviceHandle)
gpu = device(handle.device)
print(int(gpu.open(handle).long().sum()))
gpu.finish()
"""


@pytest.mark.skipif(not GPU, reason="CUDA's own calls: no GPU here, so they HAVE NOT RUN")
def test_cuda_hands_a_buffer_to_another_process() -> None:
    gpu = CudaDevice()
    buffer = gpu.allocate(2**20)
    buffer.fill_(3)
    gpu.finish()
    handle = gpu.share(buffer)
    assert torch.equal(gpu.open(handle), buffer)
    text = msgspec.json.encode(handle).decode()
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=text, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 3 * 2**20
