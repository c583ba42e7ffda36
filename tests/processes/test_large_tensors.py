"""Tensors of 1 MiB to 1 GiB between two processes, bit for bit; one that is larger is refused."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from real_run import RealRun

ROLES = '''
import torch
import xxhash

from realnet import Actor, Ask, Message, Request, WireError, handles

MIB = 2**20
SIZES = (MIB, 7 * MIB + 2, 64 * MIB, 300 * MIB, 1024 * MIB)


class Sum(Message):
    digest: str
    shape: list[int]
    dtype: str


class Big(Request[Sum]):
    tensor: torch.Tensor


def sum_of(tensor):
    raw = tensor.view(torch.uint8).numpy()
    return Sum(xxhash.xxh3_128_hexdigest(raw), list(tensor.shape), str(tensor.dtype))


def pattern(size):
    """Every bit pattern of bf16 (NaN with its bits, infinities, denormals), over and over."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    tensor = torch.empty(size // 2, dtype=torch.bfloat16)
    for at in range(0, len(tensor), 65536):
        tensor[at : at + 65536] = bits[: len(tensor) - at]
    return tensor


class Giver(Actor):
    taker = Ask(Big)

    async def run(self):
        for size in SIZES:
            tensor = pattern(size)
            reply = await self.taker(Big(tensor), deadline_s=120)
            assert reply == sum_of(tensor), size
            self.event(f"{size} bytes came as they were")
        try:
            await self.taker(Big(torch.empty(1120 * MIB, dtype=torch.uint8)), deadline_s=120)
        except WireError as error:
            self.event(f"refused: {error}")
        reply = await self.taker(Big(pattern(MIB)), deadline_s=120)
        assert reply == sum_of(pattern(MIB))
        self.event("and the wire goes on")


class Taker(Actor):
    @handles
    async def add(self, request: Big) -> Sum:
        return sum_of(request.tensor)
'''
TOPOLOGY = """
[roles.giver]
kind = "roles.py:Giver"
[roles.taker]
kind = "roles.py:Taker"
[wires]
big = "giver -> taker"
"""


@pytest.mark.long
def test_areal_15_tensors_up_to_a_gib_arrive_bit_for_bit(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "roles.py").write_text(ROLES, encoding="utf-8")
    topology = tmp_path / "big.toml"
    topology.write_text(TOPOLOGY, encoding="utf-8")
    run = start(topology)
    run.until(lambda: any("and the wire goes on" in e for e in run.events()), 150)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    events = " ".join(run.events())
    for size in (2**20, 7 * 2**20 + 2, 2**26, 300 * 2**20, 2**30):
        assert f"{size} bytes came as they were" in events
    assert "refused: " in events
