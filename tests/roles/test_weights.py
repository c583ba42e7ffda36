"""A version is read whole or not at all, whatever happens to the memory meanwhile."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from realnet.errors import RealnetError
from realnet.roles.messages import Held, Manifest, Version
from realnet.roles.weights import (
    ArenaSlots,
    WeightReader,
    WeightsDamaged,
    WeightsGone,
    fill,
    layout,
    tensors,
)
from realnet.roles.weights.arena import HEADER_BYTES

ITEMS = [
    ("embed", "float32", (5, 3)),
    ("scale", "bfloat16", (7,)),
    ("one", "float32", ()),
    ("none", "float32", (0, 4)),
]


def version(number: int, branch: int = 0) -> Version:
    return Version(policy="p", branch=branch, number=number)


def arrays(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((5, 3)).astype(np.float32),
        rng.integers(0, 2**16, 7).astype(np.uint16),
        np.array(seed, np.float32),
        np.zeros((0, 4), np.float32),
    ]


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "arena"
    file.write_bytes(b"")
    with file.open("r+b") as opened:
        opened.truncate(4 * ArenaSlots.slot_bytes(1000))
    return str(file)


def opened(path: str) -> ArenaSlots:
    return ArenaSlots(path, 4, ArenaSlots.slot_bytes(1000))


def put(arena: ArenaSlots, slot: int, number: int) -> Held:
    """Publish one version the way the roles do."""
    arena.begin(slot)
    planned = layout(version(number), ITEMS)
    with arena.view(slot) as view:
        manifest = fill(planned, view, arrays(number))
    arena.commit(slot, manifest)
    return Held(manifest, arena.location(slot))


def test_what_was_written_is_read_back(path: str) -> None:
    with opened(path) as arena:
        held = put(arena, 2, 7)
    reader = WeightReader()
    out = bytearray(held.manifest.num_bytes)
    reader.copy(held, out)
    found = tensors(held.manifest, out)
    reader.close()
    for (name, _, shape), array in zip(ITEMS, arrays(7), strict=True):
        assert found[name].shape == shape
        np.testing.assert_array_equal(found[name], array)
    assert all(t.offset_bytes % 64 == 0 for t in held.manifest.tensors)
    assert held.manifest.num_bytes == 64 * 3


def test_a_reused_slot_has_the_digest_of_its_own_bytes(path: str) -> None:
    """What a larger version left between the tensors must not change the digest."""
    with opened(path) as arena:
        with arena.view(0) as view:
            view[:] = b"\xff" * len(view)
        first, second = put(arena, 0, 3), put(arena, 1, 3)
    assert first.manifest == second.manifest


def test_a_slot_that_was_written_again_is_gone(path: str) -> None:
    with opened(path) as arena:
        held = put(arena, 0, 1)
        out = bytearray(held.manifest.num_bytes)
        arena.begin(0)
        with pytest.raises(WeightsGone, match=r"no longer holds p v0\.1"):
            arena.read_copy(0, held.location.generation, held.manifest, out)
        put(arena, 0, 2)
        with pytest.raises(WeightsGone):
            WeightReader().copy(held, out)


def test_a_slot_that_changes_during_the_copy_is_noticed(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as arena:
        held = put(arena, 0, 1)
        real = np.copyto

        def overtaken(target: np.ndarray, source: np.ndarray) -> None:
            real(target, source)
            arena.begin(0)

        monkeypatch.setattr(np, "copyto", overtaken)
        with pytest.raises(WeightsGone):
            arena.read_copy(0, held.location.generation, held.manifest, bytearray(192))


def test_every_damaged_byte_is_found_by_reader_scan_and_committer(path: str) -> None:
    rng = random.Random(3)
    with opened(path) as arena:
        held = put(arena, 1, 1)
        out = bytearray(held.manifest.num_bytes)
        for at in rng.sample(range(held.manifest.num_bytes), 60):
            with arena.view(1) as view:
                view[at] ^= 1 << rng.randrange(8)
                with pytest.raises(WeightsDamaged, match=r"p v0\.1 in slot 1 .* is damaged"):
                    arena.read_copy(1, held.location.generation, held.manifest, out)
                assert arena.scan() == []
                arena.begin(2)
                with arena.view(2) as other:
                    other[:] = view
                with pytest.raises(WeightsDamaged, match="publish it again"):
                    arena.commit(2, held.manifest)
                assert arena.generation(2) % 2 == 1
            put(arena, 1, 1)
            held = Held(held.manifest, arena.location(1))


def test_after_a_restart_the_scan_finds_whole_versions_newest_last(path: str) -> None:
    with opened(path) as arena:
        for slot, number in enumerate((12, 10, 11)):
            put(arena, slot, number)
        arena.begin(1)  # its writer died
    with opened(path) as arena:
        held = arena.scan()
        assert [h.manifest.version.number for h in held] == [11, 12]
        assert arena.generation(3) == 0
        out = bytearray(192)
        arena.read_copy(held[0].location.slot, held[0].location.generation, held[0].manifest, out)


def test_a_damaged_header_hides_the_version_and_nothing_else(path: str) -> None:
    with opened(path) as arena:
        put(arena, 0, 1)
        put(arena, 1, 2)
    with Path(path).open("r+b") as file:
        file.seek(40)  # in the manifest of slot 0
        file.write(b"\xff")
    with opened(path) as arena:
        assert [h.manifest.version.number for h in arena.scan()] == [2]


def test_generations_only_grow_and_are_odd_while_written(path: str) -> None:
    with opened(path) as arena:
        seen = [arena.begin(0), arena.begin(0)]
        seen.append(put(arena, 0, 1).location.generation)
        seen.append(arena.begin(0))
    assert seen == sorted(set(seen))
    assert [g % 2 for g in seen] == [1, 1, 0, 1]


def test_wrong_sizes_are_refused_in_words(path: str) -> None:
    with pytest.raises(RealnetError, match="too few for 9 slots"):
        ArenaSlots(path, 9, ArenaSlots.slot_bytes(1000))
    with opened(path) as arena, pytest.raises(RealnetError, match="none numbered 4"):
        arena.begin(4)
    with pytest.raises(RealnetError, match="'float8' do not travel"):
        layout(version(0), [("x", "float8", (1,))])
    planned = layout(version(0), [("x", "float32", (4,))])
    with pytest.raises(AssertionError, match="x is float32"):
        fill(planned, memoryview(bytearray(64)), [np.zeros(3, np.float32)])
    lying = Manifest(planned.version, planned.tensors, 8, "")
    with pytest.raises(RealnetError, match="puts x"):
        tensors(lying, bytes(64))
    assert ArenaSlots.slot_bytes(1) % 4096 == 0
    assert ArenaSlots.slot_bytes(1) > HEADER_BYTES


def test_a_reader_whose_arena_vanished_says_so(path: str) -> None:
    with opened(path) as arena:
        held = put(arena, 0, 1)
    Path(path).unlink()
    with pytest.raises(WeightsGone, match="the arena went away"):
        WeightReader().copy(held, bytearray(192))


def test_who_maps_a_slot_has_a_lease_until_its_process_ends(path: str) -> None:
    with opened(path) as arena:
        held = put(arena, 1, 4)
        code = (
            "import sys, msgspec\n"
            "from realnet.roles.messages import Held\n"
            "from realnet.roles.weights import WeightReader, check\n"
            "held = msgspec.json.decode(sys.argv[1], type=Held)\n"
            "with WeightReader().mapped(held) as view:\n"
            "    check(held.manifest, view, 'mapped')\n"
            "    print('mapped', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        said = msgspec.json.encode(held).decode()
        with subprocess.Popen(
            [sys.executable, "-c", code, said], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"mapped\n"
            assert arena.leased(1)
            assert not arena.leased(0)
            child.kill()
            child.wait()
            assert not arena.leased(1)


def test_a_mapped_slot_that_was_written_again_is_noticed_at_the_end(path: str) -> None:
    with opened(path) as arena:
        held, reader = put(arena, 0, 1), WeightReader()

        def read(overtaken: bool) -> bytes:
            with reader.mapped(held) as view:
                assert view.readonly
                if overtaken:
                    arena.begin(0)
                return bytes(view)

        with arena.view(0) as view:
            assert read(False) == view[:192]
        with pytest.raises(WeightsGone):
            read(True)
        assert not arena.leased(0)
        reader.close()
