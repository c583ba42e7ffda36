"""What is held in a ring stays as it is while anything refers to it, and not longer."""

from __future__ import annotations

import gc
import mmap
import random
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from realnet.codec import Frame
from realnet.host import has_memfd
from realnet.transport import held as held_module
from realnet.transport.held import FROM_BYTES, NUM_HELD, UNIT_BYTES, beyond
from realnet.transport.ring import HEAD_BYTES, RingReader, RingWriter
from realnet.transport.rings import Rings

pytestmark = pytest.mark.skipif(
    not (held_module.IN_ORDER and has_memfd()), reason="nothing is held here"
)
CAPACITY = 8 * 2**20
MOST = CAPACITY // (2 * NUM_HELD)
HEAD = b"head"


class Both:
    """Both ends of a ring, and the memory between them."""

    def __init__(self, capacity: int = CAPACITY):
        self.memory = memoryview(bytearray(HEAD_BYTES + capacity))
        self.writer, self.reader = RingWriter(self.memory), RingReader(self.memory)

    def send(self, *frames: bytes) -> list[Frame] | None:
        at = self.writer.put(frames)
        return None if at is None else self.reader.take(at, [len(f) for f in frames])

    @property
    def num_held(self) -> int:
        return sum(word != 0 for word in self.writer._held.tolist())


def sent(both: Both, *frames: bytes) -> list[Frame]:
    got = both.send(*frames)
    assert got is not None
    return got


def lies_in(memory: memoryview, frame: Frame) -> bool:
    return bool(np.shares_memory(np.frombuffer(memory, np.uint8), np.frombuffer(frame, np.uint8)))


def test_arrays_stay_where_they_are_and_the_first_frame_is_copied() -> None:
    both = Both()
    got = sent(both, HEAD, b"a" * FROM_BYTES, b"b" * 100)
    assert [bytes(f) for f in got] == [HEAD, b"a" * FROM_BYTES, b"b" * 100]
    assert [lies_in(both.memory, f) for f in got] == [False, True, True]
    assert all(memoryview(f).readonly for f in got)
    assert both.num_held == 1
    array = np.frombuffer(got[2], np.uint8)[::3]
    del got
    assert both.num_held == 1  # the last view of one array keeps all of its message
    both.writer.forget()
    for _ in range(100):
        sent(both, b"x" * MOST)
    assert set(array.tolist()) == {ord("b")}
    del array
    assert both.num_held == 0


def test_a_ring_from_which_nothing_is_kept_starts_over() -> None:
    both = Both()
    for i in range(50):
        assert sent(both, HEAD, bytes([1 + i]) * FROM_BYTES)[1] == bytes([1 + i]) * FROM_BYTES
    assert not any(both.memory[HEAD_BYTES + 2 * FROM_BYTES :])


@pytest.mark.parametrize(
    "frames",
    [
        [b"a" * FROM_BYTES],  # it is decoded, so it is copied
        [HEAD, b"a" * (FROM_BYTES - 2 * UNIT_BYTES)],
        [HEAD, b"a" * MOST],
    ],
    ids=["one frame", "small", "large"],
)
def test_what_is_not_held_is_copied(frames: Sequence[bytes]) -> None:
    both = Both()
    got = sent(both, *frames)
    assert got == list(frames)
    assert not any(lies_in(both.memory, f) for f in got)
    assert both.num_held == 0


def test_whoever_keeps_many_gets_copies_and_the_ring_goes_on() -> None:
    both = Both()
    kept = [sent(both, HEAD, bytes([i]) * (MOST - 2 * UNIT_BYTES)) for i in range(NUM_HELD + 5)]
    assert both.num_held == NUM_HELD
    for i in range(200):
        assert sent(both, HEAD, bytes([i]) * FROM_BYTES)[1][:1] == bytes([i])
    for i, got in enumerate(kept):
        assert set(bytes(got[1])) == {i}
        assert lies_in(both.memory, got[1]) == (i < NUM_HELD)
    del kept, got
    assert both.num_held == 0
    assert lies_in(both.memory, sent(both, HEAD, b"a" * FROM_BYTES)[1])


def test_a_writer_that_does_not_look_at_what_is_held_is_copied_from() -> None:
    both = Both()
    both.memory[:HEAD_BYTES].cast("Q")[24] = 0  # as one that has never heard of it leaves it
    got = sent(both, HEAD, b"a" * FROM_BYTES)
    assert not lies_in(both.memory, got[1])


def test_nothing_is_held_of_a_message_that_comes_late() -> None:
    both = Both()

    class Meanwhile(list[int]):  # the connection is lost between the first look and the second
        def __getitem__(self, place):  # type: ignore[no-untyped-def]
            both.writer.forget()
            return super().__getitem__(place)

    at = both.writer.put([HEAD, b"a" * FROM_BYTES])
    assert at is not None
    assert both.reader.take(at, Meanwhile([len(HEAD), FROM_BYTES])) is None
    assert both.num_held == 0


def test_the_last_array_may_die_on_any_thread() -> None:
    both = Both()
    for _ in range(3):
        kept = [sent(both, HEAD, b"a" * FROM_BYTES) for _ in range(NUM_HELD)]
        assert both.num_held == NUM_HELD
        halves = kept[::2], kept[1::2]
        kept.clear()
        threads = [threading.Thread(target=half.clear) for half in halves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert both.num_held == 0


def test_beyond_is_the_first_room_that_nothing_held_is_in() -> None:
    places = [(0, 2), (3, 5), (5, 6), (9, 10)]
    words = memoryview(bytearray(8 * 8)).cast("Q")
    for number, (start, stop) in zip((5, 0, 7, 2), places, strict=True):
        words[number] = start << 32 | stop
    for size in range(1, 5):
        for offset in range(12):
            first = next(
                at
                for at in range(offset, 20)
                if all(at + size <= start or at >= stop for start, stop in places)
            )
            found = beyond(offset * UNIT_BYTES, size * UNIT_BYTES, words)
            assert found == first * UNIT_BYTES


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_kept_stays_as_it_was(seed: int) -> None:
    rng = random.Random(seed)
    both = Both()
    coming: list[tuple[int, list[bytes], int]] = []
    kept: list[tuple[list[Frame], list[bytes]]] = []
    life = held = full = 0
    for _ in range(1500):
        event = rng.random()
        if event < 0.5:
            sizes = (20, *(rng.choice((0, 700, 40_000, 70_000, 200_000)) for _ in range(2)))
            frames = [rng.randbytes(1) * size for size in sizes]
            at = both.writer.put(frames)
            full += at is None
            if at is not None:
                coming.append((at, frames, life))
        elif event < 0.9 and coming:
            at, frames, its = coming.pop(0)
            got = both.reader.take(at, [len(f) for f in frames])
            assert got == (frames if its == life else None), f"seed {seed}"
            if got is not None and rng.random() < 0.7:
                kept.append((got, frames))
            held = max(held, both.num_held)
            del got
        elif event < 0.98 and kept:
            got, frames = kept.pop(rng.randrange(len(kept)) if rng.random() < 0.8 else 0)
            assert got == frames, f"seed {seed}"
            del got
        elif event > 0.99:
            both.writer.forget()
            life += 1
    assert all(got == frames for got, frames in kept), f"seed {seed}"
    assert held >= NUM_HELD // 2, f"seed {seed}"
    assert full < 700, f"seed {seed}"
    kept.clear()
    assert both.num_held == 0, f"seed {seed}"


def test_what_is_held_outlives_its_ring_and_gives_the_memory_back() -> None:
    writer, reader = Rings(CAPACITY), Rings()

    def give(work):  # type: ignore[no-untyped-def]
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value

    frames: list[Frame] = [HEAD, b"a" * FROM_BYTES]
    give(reader.read(give(writer.notice("b", 0, frames))[0]))
    got = give(reader.read(give(writer.notice("b", 0, frames))[0]))
    ((_, opened),) = reader._opened.items()
    memory: weakref.ref[mmap.mmap] = weakref.ref(opened.memory)
    del opened
    writer.close()
    reader.close()
    gc.collect()
    assert bytes(got[1]) == b"a" * FROM_BYTES
    assert memory() is not None
    del got
    assert memory() is None
