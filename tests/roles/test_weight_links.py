"""A version comes whole over every link, or not at all: slices, streams, files, the nearest."""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from realnet.errors import PeerDied, RealnetError
from realnet.roles.messages import (
    Announced,
    Chunk,
    FetchVersion,
    Held,
    Location,
    Manifest,
    Source,
    Version,
)
from realnet.roles.weights import ArenaSlots, WeightsDamaged, WeightsGone, check, disk, fill, layout
from realnet.roles.weights import receiver as receiver_module
from realnet.roles.weights.digests import summed_up
from realnet.roles.weights.layout import stored
from realnet.roles.weights.receiver import Receiver
from realnet.roles.weights.slices import digest_part, fill_part, part, runs, untiled
from realnet.roles.weights.sources import nearest, ready
from realnet.roles.weights.stream import Assembly, chunks
from realnet.roles.weights.upload import packed, unpack

ITEMS = [
    ("embed", "float32", (5, 3)),
    ("layers.0.up", "bf16", (6, 4, 2)),
    ("layers.0.none", "float32", (0, 4)),
    ("layers.1.up", "bf16", (6, 4, 2)),
    ("one", "float32", ()),
    ("big", "float32", (700, 901)),
]
V = Version("p", 0, 3)


def arrays(seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 2**15, shape).astype(stored(dtype)).reshape(shape)
        for _, dtype, shape in ITEMS
    ]


def made(seed: int = 0, bucket_bytes: int = 64) -> tuple[Manifest, bytearray]:
    plan = layout(V, ITEMS, bucket_bytes)
    room = bytearray(plan.num_bytes)
    return fill(plan, memoryview(room), arrays(seed)), room


def test_buckets_are_cut_between_layers_and_cover_all() -> None:
    plan = layout(V, ITEMS, 64)
    starts = [b.offset_bytes for b in plan.buckets]
    at = {t.name: t.offset_bytes for t in plan.tensors}
    assert starts == [0, at["layers.0.up"], at["layers.1.up"], at["one"], at["big"]]
    assert sum(b.num_bytes for b in plan.buckets) == plan.num_bytes
    assert len(layout(V, ITEMS).buckets) == 1
    assert layout(V, []).buckets == ()


def test_digests_are_those_of_the_arrays_whatever_came_to_be_in_memory() -> None:
    manifest, room = made()
    assert summed_up(layout(V, ITEMS, 64), arrays()) == manifest
    check(manifest, room, "here")
    large = layout(V, [("w", "float32", (5 * 2**20,)), ("x", "uint8", (3,))], 2**20)
    values = [np.arange(5 * 2**20, dtype=np.float32), np.arange(3, dtype=np.uint8)]
    out = bytearray(large.num_bytes)
    threaded = fill(large, memoryview(out), values)
    assert threaded == summed_up(large, values)
    check(threaded, out, "here")
    out[-1] ^= 1
    with pytest.raises(WeightsDamaged, match="differs in bucket 1 of 2"):
        check(threaded, out, "here")


@pytest.mark.parametrize("seed", range(5))
def test_buckets_that_lie_are_refused(seed: int) -> None:
    manifest, room = made()
    rng = random.Random(seed)
    buckets = list(manifest.buckets)
    i = rng.randrange(len(buckets))
    change = rng.choice(
        [
            {"offset_bytes": buckets[i].offset_bytes + 64},
            {"num_bytes": buckets[i].num_bytes - 64},
            {"digest": "0" * 32},
        ]
    )
    buckets[i] = msgspec.structs.replace(buckets[i], **change)
    with pytest.raises(WeightsDamaged, match="do not cover it, or their digests differ"):
        check(msgspec.structs.replace(manifest, buckets=tuple(buckets)), room, "here")


# ---------------------------------------------------------------- slices


def cut(shape: tuple[int, ...], ways: int, rng: random.Random) -> list[tuple[Any, Any]]:
    """Cut a box into boxes at random places."""
    boxes = [((0,) * len(shape), shape)]
    for _ in range(ways):
        start, size = boxes.pop(rng.randrange(len(boxes)))
        long = [d for d, n in enumerate(size) if n > 1]
        if not long:
            boxes.append((start, size))
            continue
        d = rng.choice(long)
        n = rng.randrange(1, size[d])
        later = tuple(s + n if i == d else s for i, s in enumerate(start))
        boxes.append((start, tuple(n if i == d else s for i, s in enumerate(size))))
        boxes.append((later, tuple(s - n if i == d else s for i, s in enumerate(size))))
    return boxes


@pytest.mark.parametrize("seed", range(20))
def test_slices_of_several_writers_make_the_same_bytes(seed: int) -> None:
    """Written in place or sent as runs, whichever way tensors are cut."""
    rng = random.Random(seed)
    whole, expected = made()
    shares: list[list[tuple[str, Any, Any]]] = [[], [], []]
    for name, _, shape in ITEMS:
        for start, size in cut(shape, rng.randrange(5), rng):
            shares[rng.randrange(3)].append((name, start, size))
    values = {name: a for (name, _, _), a in zip(ITEMS, arrays(), strict=True)}
    here, sent = bytearray(whole.num_bytes), bytearray(whole.num_bytes)
    pieces = []
    for writer, share in enumerate(shares):
        mine = part(whole, share, writer)
        boxes = [
            values[name][(*(slice(a, a + n) for a, n in zip(start, size, strict=True)), ...)]
            for name, start, size in share
        ]
        said = fill_part(mine, memoryview(here), boxes)
        for record in packed(mine, Location("", 0, 1), boxes):
            assert record.data.nbytes <= 10**6
            unpack(record, memoryview(sent))
        assert said.digest == digest_part(said, memoryview(here))
        assert said.digest == digest_part(said, memoryview(sent))
        pieces += mine.tensors
    assert here == sent == expected
    assert untiled(whole, pieces) == ""
    assert sum(n for t in pieces for _, n in runs(t)) == sum(t.num_bytes for t in pieces)
    assert bool(untiled(whole, pieces[1:])) == (0 not in pieces[0].size)


def test_holes_and_overlaps_are_named() -> None:
    whole, _ = made()
    tiles = [t for t in whole.tensors if t.name != "embed"]
    (top,) = part(whole, [("embed", (0, 0), (3, 3))], 0).tensors
    (low,) = part(whole, [("embed", (3, 0), (2, 3))], 1).tensors
    (more,) = part(whole, [("embed", (2, 0), (3, 1))], 2).tensors
    (out,) = part(whole, [("embed", (3, 0), (3, 3))], 3).tensors
    assert untiled(whole, [*tiles, top, low]) == ""
    assert "6 of the 15 numbers of embed were written by nobody" in untiled(whole, [*tiles, top])
    assert "written twice in part, by writers 0 and 2" in untiled(whole, [*tiles, top, low, more])
    assert "by writer 3 lies outside" in untiled(whole, [*tiles, top, out])
    moved = msgspec.structs.replace(low, offset_bytes=64)
    assert "of another layout" in untiled(whole, [*tiles, top, moved])
    with pytest.raises(RealnetError, match="no tensor 'else'"):
        part(whole, [("else", (0,), (1,))], 0)


@pytest.mark.parametrize("change", [{"offsets_bytes": [-1]}, {"offsets_bytes": [2**40]}, {"n": 2}])
def test_runs_outside_of_the_slot_are_refused(change: dict[str, Any]) -> None:
    whole, room = made()
    (record,) = packed(
        part(whole, [("one", (), ())], 0), Location("", 0, 1), [np.array(1, np.float32)]
    )
    if "n" in change:
        bad = msgspec.structs.replace(record, lengths_bytes=np.array([8], np.int64))
    else:
        bad = msgspec.structs.replace(record, offsets_bytes=np.array(change["offsets_bytes"]))
    before = bytes(room)
    with pytest.raises(RealnetError, match="does not lie inside its slot"):
        unpack(bad, memoryview(room))
    assert bytes(room) == before


# ---------------------------------------------------------------- streams


def test_chunks_put_together_are_the_version_and_are_small() -> None:
    manifest, room = made()
    out = bytearray(b"\xff" * manifest.num_bytes)
    assembly = Assembly(manifest, out)
    for chunk in chunks(manifest, memoryview(room)):
        assert chunk.data.nbytes <= 10**6
        assert not assembly.whole
        assembly.take(chunk)
    assembly.finish()
    assert out == room
    nothing = Manifest(V, (), 0, "99aa06d3014798d86001c324468d497f")
    Assembly(nothing, bytearray()).finish()


@pytest.mark.parametrize("seed", range(8))
def test_a_chunk_that_is_damaged_lost_or_doubled_is_found(seed: int) -> None:
    rng = random.Random(seed)
    manifest, room = made(seed)
    sent = [Chunk(c.offset_bytes, c.data.copy()) for c in chunks(manifest, memoryview(room))]
    i = rng.randrange(len(sent))
    what = rng.choice(["damage", "lose", "double", "cut"])
    if what == "damage":
        sent[i].data[rng.randrange(len(sent[i].data))] ^= 1 << rng.randrange(8)
    elif what == "lose":
        del sent[i]
    elif what == "double":
        sent.insert(i, sent[i])
    else:
        sent = sent[:i]
    assembly = Assembly(manifest, bytearray(manifest.num_bytes))

    def all_of_it() -> None:
        for chunk in sent:
            assembly.take(chunk)
        assembly.finish()

    with pytest.raises(WeightsDamaged):
        all_of_it()


# ---------------------------------------------------------------- files


def test_a_file_is_read_back_and_others_read_it(tmp_path: Path) -> None:
    manifest, room = made()
    path = disk.write(tmp_path, manifest, memoryview(room))
    assert [p.name for p in tmp_path.iterdir()] == ["p-000-00000003.safetensors"]
    assert disk.read_manifest(path) == manifest
    out = bytearray(b"\xff" * manifest.num_bytes)
    disk.read(path, manifest, out)
    assert out == room
    code = (
        "import sys, safetensors\n"
        "with safetensors.safe_open(sys.argv[1], 'np') as f:\n"
        "    print(sorted(f.keys()), f.get_tensor('embed').ravel().tolist())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    names = sorted(name for name, _, _ in ITEMS)
    assert said.stdout.strip() == f"{names} {arrays()[0].ravel().tolist()}"


@pytest.mark.parametrize("seed", range(12))
def test_no_damaged_file_is_read(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    manifest, room = made()
    path = disk.write(tmp_path, manifest, memoryview(room))
    data = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    if seed % 3 == 0:
        del data[rng.randrange(len(data)) :]
    elif seed % 3 == 1:  # in the bytes of the tensors
        data[rng.randrange(8 + header, len(data))] ^= 1
    else:  # another shape under the same name
        text = json.loads(data[8 : 8 + header])
        text["embed"]["shape"] = [3, 5]
        text["big"]["data_offsets"][0] += 4
        body = json.dumps(text).encode()
        data[: 8 + header] = struct.pack("<Q", len(body)) + body
    path.write_bytes(data)
    with pytest.raises(WeightsDamaged, match="is not used"):
        disk.read(path, manifest, bytearray(manifest.num_bytes))


def test_files_of_a_policy_are_not_those_of_one_whose_name_begins_alike(tmp_path: Path) -> None:
    manifest, room = made()
    for name in ("solver", "solver-b"):
        version = Version(name, 0, 1)
        disk.write(tmp_path, msgspec.structs.replace(manifest, version=version), memoryview(room))
    (theirs,) = disk.files_of(tmp_path, "solver-b")
    (ours,) = disk.files_of(tmp_path, "solver")
    half = tmp_path / "solver-b-000-00000002.77.tmp"
    half.write_bytes(b"half")
    assert disk.keep(tmp_path, "solver", 1) == [ours]
    assert sorted(tmp_path.iterdir()) == sorted((ours, half, theirs))


def test_a_writer_that_fails_leaves_no_file_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, room = made()
    for number in range(5):
        version = Version("p", number % 2, number)
        disk.write(tmp_path, msgspec.structs.replace(manifest, version=version), memoryview(room))
    left = tmp_path / "p-000-00000009.77.tmp"
    left.write_bytes(b"half")
    stay = disk.keep(tmp_path, "p", 2)
    assert [p.name for p in stay] == ["p-001-00000001.safetensors", "p-001-00000003.safetensors"]
    assert sorted(tmp_path.iterdir()) == stay

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write(tmp_path, manifest, memoryview(room))
    assert sorted(tmp_path.iterdir()) == stay
    with pytest.raises(WeightsGone, match="take the newest"):
        disk.read(disk.path_of(tmp_path, V), manifest, bytearray(manifest.num_bytes))


# ---------------------------------------------------------------- the nearest


def test_the_nearest_source_first_and_never_the_memory_of_another_host() -> None:
    manifest, _ = made()
    stream, file = Source("stream", "", "ps/0"), Source("disk", "", "f")
    here, there = Source("shm", "a", "", Location("x", 0, 2)), Source("shm", "b", "", None)
    held = Held(manifest, Location("", 0, 0), (file, there, stream, here, Source("new", "a")))
    assert nearest(held, "a") == [here, stream, file]
    assert nearest(held, "c") == [stream, file]
    assert nearest(held, "a", ("disk",)) == [file]
    plain = Held(manifest, Location("x", 1, 2))
    assert [s.location for s in nearest(plain, "a")] == [plain.location]


def test_a_host_with_a_relay_waits_for_its_copy() -> None:
    manifest, _ = made()
    held = Held(manifest, Location("", 0, 0), (Source("shm", "a", "", None),))
    announced = Announced(held, (), ("b",))
    assert ready(announced, held, "a")
    assert ready(announced, held, "c")
    assert not ready(announced, held, "b")
    copied = msgspec.structs.replace(held, sources=(*held.sources, Source("shm", "b", "", None)))
    assert ready(announced, copied, "b")


class Around:
    """What a receiver needs of its actor."""

    async def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Any:
        return fn(*args)

    @asynccontextmanager
    async def waiting(self, on: str) -> AsyncIterator[None]:
        yield


class Sender:
    """The port to a parameter server that dies after some chunks, as often as it is told."""

    def __init__(self, manifest: Manifest, room: bytearray, deaths: int = 0) -> None:
        self.manifest, self.room, self.deaths = manifest, room, deaths
        self.after = 1
        self.asked: list[tuple[FetchVersion, str | None]] = []

    async def stream(
        self, request: FetchVersion, *, deadline_s: float | None = None, to: str | None = None
    ) -> AsyncIterator[Chunk]:
        self.asked.append((request, to))
        for i, chunk in enumerate(
            chunks(self.manifest, memoryview(self.room), request.offset_bytes)
        ):
            if i == self.after and self.deaths:
                self.deaths -= 1
                raise PeerDied("ps/0 died")
            yield chunk


async def test_a_stream_goes_on_where_its_sender_died() -> None:
    manifest, room = made()
    sender = Sender(manifest, room, deaths=2)
    receiver = Receiver(Around(), sender, host="here")
    out = bytearray(manifest.num_bytes)
    held = Held(manifest, Location("", 0, 0), (Source("stream", "", "ps/0"),))
    await receiver.receive(held, memoryview(out))
    assert out == room
    assert receiver.link == "stream"
    at = [request.offset_bytes for request, to in sender.asked]
    assert at == [0, 960 * 1024, 2 * 960 * 1024]
    sender.deaths, sender.after = 3, 0
    with pytest.raises(WeightsGone, match=r"did not come from ps/0 \(\d+ of \d+ bytes\)"):
        await receiver.receive(held, memoryview(out))


class Silent(Sender):
    """A sender that gives one chunk each time it is asked, and then nothing at all."""

    async def stream(
        self, request: FetchVersion, *, deadline_s: float | None = None, to: str | None = None
    ) -> AsyncIterator[Chunk]:
        self.asked.append((request, to))
        yield next(chunks(self.manifest, memoryview(self.room), request.offset_bytes))
        await asyncio.Event().wait()


async def test_a_stream_that_brings_nothing_is_given_up_and_another_link_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "STALL_S", 0.05)
    manifest, room = made()
    sender = Silent(manifest, room)
    receiver = Receiver(Around(), sender, host="here")
    stream = Source("stream", "", "ps/0")
    out = bytearray(manifest.num_bytes)
    with pytest.raises(WeightsGone, match=r"did not come from ps/0 \(\d+ of \d+ bytes\)"):
        await receiver.receive(Held(manifest, Location("", 0, 0), (stream,)), memoryview(out))
    chunk = 960 * 1024
    assert [request.offset_bytes for request, _ in sender.asked] == [0, chunk, 2 * chunk]
    file = Source("disk", "", str(disk.write(tmp_path, manifest, memoryview(room))))
    await receiver.receive(Held(manifest, Location("", 0, 0), (stream, file)), memoryview(out))
    assert (out, receiver.link) == (room, "disk")


async def test_what_one_source_has_damaged_comes_from_the_next(tmp_path: Path) -> None:
    manifest, room = made()
    size = ArenaSlots.slot_bytes(manifest.num_bytes)
    path = tmp_path / "arena"
    path.write_bytes(bytes(size))
    with ArenaSlots(str(path), 1, size) as arena:
        arena.begin(0)
        with arena.view(0) as view:
            view[: manifest.num_bytes] = room
        arena.commit(0, manifest)
        with arena.view(0) as view:
            view[100] ^= 1
        shm = Source("shm", "here", "", arena.location(0))
    broken = bytearray(room)
    broken[-200] ^= 1
    sender = Sender(manifest, broken)
    file = Source("disk", "", str(disk.write(tmp_path, manifest, memoryview(room))))
    receiver = Receiver(Around(), sender, host="here")
    held = Held(manifest, Location("", 0, 0), (file, shm, Source("stream", "", "ps/0")))
    out = bytearray(manifest.num_bytes)
    await receiver.receive(held, memoryview(out))
    assert (out, receiver.link, len(sender.asked)) == (room, "disk", 1)
    with pytest.raises(WeightsDamaged):
        await receiver.receive(
            msgspec.structs.replace(held, sources=held.sources[1:]), memoryview(out)
        )
    with pytest.raises(WeightsGone, match=r"can be had by shm on b, and here takes shm, stream"):
        await receiver.receive(
            msgspec.structs.replace(held, sources=(Source("shm", "b", "", None),)), memoryview(out)
        )
    receiver.close()
