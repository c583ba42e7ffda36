"""Adapters over a base: the trainer's bits wherever they are laid, and only adapters move."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from adapter_versions import Published, adapters_for, filled, merged, over, same, streamed

from realnet.errors import RealnetError
from realnet.roles.messages import Announced, Chunk, FetchVersion, Held, Manifest, Version
from realnet.roles.tables import Lora
from realnet.roles.weights import WeightsDamaged, WeightsGone, merging, tensors
from realnet.roles.weights.adapters import base_version, whole_layout
from realnet.roles.weights.intake import Intake
from realnet.roles.weights.receiver import Receiver
from realnet.roles.weights.room import Room
from realnet.roles.weights.stream import chunks

V = Version("policy", 0, 1)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def base_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng).to(dtype)

    return {
        "embed.weight": made(37, 8),
        "layers.0.norm.weight": made(8),
        "layers.0.q_proj.weight": made(24, 8),
        "layers.0.q_proj.bias": made(24),
        "layers.1.down_proj.weight": made(8, 19),
        "layers.1.other.weight": made(3, 3),
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_sums_are_the_trainers_bit_for_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever shapes, dtypes, ranks, tiles and threads: torch there, numpy here."""
    draw = random.Random(seed)
    monkeypatch.setattr(merging, "COLUMNS", draw.choice([1, 7, 512]))
    monkeypatch.setattr(merging, "_PRODUCTS", draw.choice([1, 2**18]))
    monkeypatch.setattr(merging, "_TASK", draw.choice([1, 50, 2**22]))
    lora = Lora(rank=draw.choice([1, 2, 5, 16]), alpha=draw.choice([1, 16, 37]))
    kept, dtype = draw.choice(list(DTYPES.values())), draw.choice(list(DTYPES))
    base = base_weights(seed, kept)
    adapters = adapters_for(base, seed, ["q_proj", "down_proj"], lora)
    if draw.random() < 0.5:
        adapters = {name: weight.bfloat16() for name, weight in adapters.items()}
    below, room = filled(base_version(V), base)
    manifest, laid = filled(V, adapters)
    manifest = over(below, manifest, dtype, lora)
    out = bytearray(whole_layout(below, manifest).num_bytes)
    out[:] = b"x" * len(out)  # what was in the room before
    whole = merging.lay_over(below, memoryview(room), manifest, laid, memoryview(out))
    wanted = merged(base, adapters, DTYPES[dtype], lora)
    same(tensors(whole, out), wanted)
    assert whole == filled(V, wanted)[0], "layout, padding and digests too"


@pytest.mark.parametrize("rank", [1, 2, 3, 16, 64, 200])
def test_sums_are_exact_in_whatever_order_they_are_taken(rank: int) -> None:
    """So no library's product has bits of its own; and they are close to the true ones."""
    rng = np.random.default_rng(rank)
    scales = 10.0 ** rng.integers(-6, 6, (40, rank))
    left, right = rng.standard_normal((40, rank)) * scales, rng.standard_normal((rank, 50))
    left[3], right[:, 7] = 0.0, 0.0
    digits = merging.digits_of(rank)
    one, other = merging.stepped(left, 1, digits), merging.stepped(right, 0, digits)
    assert 2 * digits + (rank - 1).bit_length() <= 53
    product = one @ other
    for _ in range(5):
        order = rng.permutation(rank)
        total = np.zeros((40, 50))
        for k in order:
            total += one[:, k : k + 1] * other[k]
        np.testing.assert_array_equal(total, product)
    exact = [[sum(Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)) for y in other.T]
             for x in one[:4]]  # fmt: skip
    np.testing.assert_array_equal(np.array(exact, np.float64), product[:4])
    largest = np.abs(left).max(1)[:, None] * np.abs(right).max(0)[None]
    assert (np.abs(product - left @ right) <= rank * largest * 2.0 ** (1 - digits)).all()
    np.testing.assert_array_equal(merging.stepped(one, 1, digits), one)


def test_rounding_is_to_the_nearest_bf16_and_of_two_to_the_even_one() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 2**16, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << np.uint32(16)) | np.uint32(0x8000)
    given = np.concatenate([bits, ties]).view(np.float32)
    expected = torch.from_numpy(given).bfloat16().view(torch.uint16).numpy()
    finite = ~np.isnan(given)
    np.testing.assert_array_equal(merging.narrowed(given)[finite], expected[finite])
    broken = (merging.narrowed(given)[~finite].astype(np.uint32) << 16).view(np.float32)
    assert np.isnan(broken).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers.0.q_proj.lora_A.weight": None}, r"over layers\.0\.q_proj\.weight \[24, 8\]"),
        ({"layers.0.q_proj.lora_A.weight": (3, 9)}, r"lays \[24, 3\] x \[3, 9\]"),
        ({"layers.9.q_proj.lora_A.weight": (3, 8)}, r"layers\.9\.q_proj\.lora_A.*no weight for"),
        ({"layers.0.q_proj.lora_B.weight": (24, 2)}, "with rank 3"),
    ],
)
def test_adapters_of_another_model_are_refused_by_name(
    change: dict[str, tuple[int, int] | None], says: str
) -> None:
    base = base_weights()
    adapters = dict(adapters_for(base, 0, ["q_proj"]))
    for name, shape in change.items():
        if shape is None:
            del adapters[name]
        else:
            adapters[name] = torch.zeros(shape)
    below, room = filled(base_version(V), base)
    manifest, laid = filled(V, adapters)
    out = memoryview(bytearray(10**5))
    with pytest.raises(RealnetError, match=says):
        merging.lay_over(below, memoryview(room), over(below, manifest, "float32"), laid, out)


# ---------------------------------------------------------------- taking them in


class Around:
    """What receiving needs of its actor."""

    async def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Any:
        return fn(*args)

    @asynccontextmanager
    async def waiting(self, on: str) -> AsyncIterator[None]:
        yield


class Sender:
    """A port that streams what it has, and counts the bytes."""

    def __init__(self, *held: tuple[Manifest, bytes | bytearray]) -> None:
        self.have = {m.digest: (m, room) for m, room in held}
        self.sent: list[int] = []

    async def stream(
        self, request: FetchVersion, *, deadline_s: float | None = None, to: str | None = None
    ) -> AsyncIterator[Chunk]:
        manifest, room = self.have[request.digest]
        self.sent.append(manifest.num_bytes)
        for chunk in chunks(manifest, memoryview(room), request.offset_bytes):
            yield chunk


def intake(sender: Sender | None = None) -> Intake:
    around: Any = Around()
    port: Any = sender
    return Intake(around, Receiver(around, port, host="here"), host="here")


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(tmp_path, base_weights())


def version(of: Published, number: int, dtype: str = "float32") -> tuple[Held, Any]:
    adapters = adapters_for(of.weights, number, ["q_proj", "down_proj"])
    held = of.adapters(Version("policy", 0, number), adapters, dtype)
    return held, merged(of.weights, adapters, DTYPES[dtype])


async def test_a_base_in_this_hosts_memory_is_mapped_and_never_copied(
    published: Published,
) -> None:
    taking, room = intake(), Room()
    for number in range(3):
        held, wanted = version(published, number, "bfloat16")
        whole = await taking.take(held, Announced(held, bases=(published.base,)), room)
        assert whole.version == held.manifest.version
        same(tensors(whole, room.view()), wanted)
        assert (taking.link, taking.base_link) == ("shm", "")
    assert len(taking._own) == 0
    await taking.close()


async def test_elsewhere_the_base_comes_once_and_then_adapters_alone(
    published: Published,
) -> None:
    versions = [version(published, number) for number in range(3)]
    everything = [published.base, *(held for held, _ in versions)]
    rooms = [(h.manifest, Path(h.location.path).read_bytes()[2**20 :]) for h in everything]
    sender = Sender(*rooms)
    taking, room = intake(sender), Room()
    base = streamed(published.base, "ps/0")
    for held, wanted in versions:
        far = streamed(held, "ps/0")
        whole = await taking.take(far, Announced(far, bases=(base,)), room)
        same(tensors(whole, room.view()), wanted)
    size = versions[0][0].manifest.num_bytes
    assert sender.sent == [published.base.manifest.num_bytes, size, size, size]
    assert size < published.base.manifest.num_bytes / 2
    assert taking.base_link == ""
    gone, wanted = versions[0]  # the server has lost its base: ours is as good
    await taking.take(streamed(gone, "ps/0"), Announced(gone), room)
    late = intake(sender)  # and one that comes late takes both
    held, wanted = versions[2]
    whole = await late.take(streamed(held, "ps/0"), Announced(held, bases=(base,)), room)
    same(tensors(whole, room.view()), wanted)
    assert (late.link, late.base_link) == ("stream", "stream")
    for one in (taking, late):
        await one.close()


async def test_a_base_that_is_gone_or_damaged_gives_no_weights(published: Published) -> None:
    held, wanted = version(published, 1)
    taking, room = intake(), Room()
    with pytest.raises(WeightsGone, match=r"policy:base v0\.0, which policy v0\.1 is laid over"):
        await taking.take(held, Announced(held), room)
    path = Path(published.base.location.path)
    good = path.read_bytes()
    bad = bytearray(good)
    bad[2**20 + 5] ^= 1
    with path.open("r+b") as file:
        file.write(bad)
    for _ in range(2):  # looked at again, since it was not found right
        with pytest.raises(WeightsDamaged, match="damaged"):
            await taking.take(held, Announced(held, bases=(published.base,)), room)
    with path.open("r+b") as file:
        file.write(good)
    whole = await taking.take(held, Announced(held, bases=(published.base,)), room)
    same(tensors(whole, room.view()), wanted)
    other = Published(path.parent, base_weights(seed=5))  # another base came in its place
    foreign = msgspec.structs.replace(
        held, manifest=msgspec.structs.replace(held.manifest, over=None)
    )
    with pytest.raises(WeightsGone):
        await taking.take(held, Announced(held, bases=(other.base,)), room)
    whole = await taking.take(foreign, Announced(foreign), room)
    assert whole == foreign.manifest, "what is whole comes as it is"
    await taking.close()


async def test_who_is_closed_meanwhile_stops_the_sums(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, _ = version(published, 1)
    taking = intake()
    monkeypatch.setattr(merging, "threads", lambda: 1)
    loop, begun, closed = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    pieces: list[Any] = []

    def wait(piece: Any, narrow: bool) -> None:
        pieces.append(piece)
        loop.call_soon_threadsafe(begun.set)
        assert closed.wait(10)

    monkeypatch.setattr(merging, "_lay", wait)
    work = asyncio.create_task(taking.take(held, Announced(held, bases=(published.base,)), Room()))
    await begun.wait()
    closing = asyncio.create_task(taking.close())
    while not taking._closed:
        await asyncio.sleep(0)
    closed.set()
    with pytest.raises(WeightsGone, match="the receiver was closed"):
        await work
    await closing
    assert len(pieces) == 1, "of the six weights"
