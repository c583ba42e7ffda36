"""Rings of shared memory: what is put in comes out, or nothing does; nothing depends on them."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from link_ends import End, cut_sockets, ends, until

from realnet import wire
from realnet.codec import INLINE_BYTES, MAX_FRAMES, NEAR_INLINE_BYTES, Frame
from realnet.errors import WireError
from realnet.host import PLAIN, has_memfd
from realnet.transport import rings as rings_module
from realnet.transport.outbox import Outbox
from realnet.transport.pace import Pace
from realnet.transport.ring import ALIGN_BYTES, HEAD_BYTES, PIECE_BYTES, RingReader, RingWriter
from realnet.transport.rings import FROM_BYTES, LET_GO_S, MARK, PATIENCE_S, Rings
from realnet.transport.zmq import ZmqTransport, ipc_endpoint

needs_memfd = pytest.mark.skipif(not has_memfd(), reason="no memfds here: rings are not used")
SIZE = 4096
T = TypeVar("T")


def both(capacity: int) -> tuple[RingWriter, RingReader]:
    memory = memoryview(bytearray(HEAD_BYTES + capacity))
    writer = RingWriter(memory)
    assert not writer.ready
    reader = RingReader(memory)
    assert writer.ready
    return writer, reader


def put(writer: RingWriter, *frames: bytes) -> int:
    at = writer.put(frames)
    assert at is not None
    return at


def test_what_is_put_in_comes_out() -> None:
    writer, reader = both(SIZE)
    for frames in ([b"one"], [b"", b"two" * 70, b"", b"3"], [os.urandom(SIZE)]):
        at = put(writer, *frames)
        assert reader.take(at, [len(f) for f in frames]) == frames


def test_a_full_ring_takes_nothing_until_something_was_taken() -> None:
    writer, reader = both(4 * ALIGN_BYTES)
    a, b = put(writer, b"a" * 128), put(writer, b"b" * 100)
    assert writer.put([b"c"]) is None
    assert writer.put([bytes(257)]) is None
    assert reader.take(a, [128]) == [b"a" * 128]
    c = put(writer, b"c" * 65)  # it begins again, and does not run into b
    assert writer.put([b"d"]) is None
    assert reader.take(b, [100]) == [b"b" * 100]
    assert reader.take(c, [65]) == [b"c" * 65]
    put(writer, b"e" * 256)


def test_an_empty_ring_starts_over_so_that_little_of_it_is_touched() -> None:
    memory = memoryview(bytearray(HEAD_BYTES + SIZE))
    writer, reader = RingWriter(memory), RingReader(memory)
    for i in range(100):
        frame = bytes([1 + i]) * 300
        assert reader.take(put(writer, frame), [300]) == [frame]
    assert not any(memory[HEAD_BYTES + 320 :])


def test_lost_positions_are_passed_over_by_the_next_message() -> None:
    writer, reader = both(4 * ALIGN_BYTES)
    for _ in range(20):
        put(writer, b"lost")
        put(writer, b"lost as well")
        at = put(writer, b"came")
        assert reader.take(at, [4]) == [b"came"]


def test_nothing_is_taken_from_below_the_floor() -> None:
    writer, reader = both(4 * ALIGN_BYTES)
    late = [put(writer, b"a" * 64), put(writer, b"b" * 64), put(writer, b"c" * 64)]
    assert reader.take(late[0], [64]) is not None
    writer.forget()
    new = put(writer, b"n" * 256)
    for at in late:
        assert reader.take(at, [64]) is None
    assert reader.take(new, [256]) == [b"n" * 256]


def test_a_message_that_is_written_over_while_it_is_copied_is_dropped() -> None:
    writer, reader = both(4 * ALIGN_BYTES)
    at = put(writer, b"a" * 64, b"b" * 64)

    class Meanwhile(list[int]):  # the writer goes on between two frames
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield 64
            writer.forget()
            put(writer, b"x" * 256)
            yield 64

    assert reader.take(at, [64, 64]) == [b"a" * 64, b"b" * 64]
    assert reader.take(at, Meanwhile([64, 64])) is None


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_events_gives_the_right_bytes_or_none(seed: int) -> None:
    rng = random.Random(seed)
    writer, reader = both(64 * ALIGN_BYTES)
    coming: list[tuple[int, list[bytes], int]] = []  # on the way, with the life it was put in
    life = taken = full = stale = 0
    for _ in range(3000):
        event = rng.random()
        if event < 0.55:
            sizes = (rng.choice((0, 1, 63, 64, 65, 700)) for _ in range(1 + life % 3))
            frames = [rng.randbytes(size) for size in sizes]
            at = writer.put(frames)
            full += at is None
            if at is not None:
                coming.append((at, frames, life))
        elif event < 0.95 and coming:
            if rng.random() < 0.1:
                coming.pop(0)  # lost
                continue
            at, frames, its = coming.pop(0)
            got = reader.take(at, [len(f) for f in frames])
            assert got == (frames if its == life else None), f"seed {seed}"
            taken, stale = taken + (got is not None), stale + (got is None)
        elif event > 0.99:  # the connection breaks: what was on it may come late, or never
            writer.forget()
            life += 1
            coming = [c for c in coming if rng.random() < 0.5]
    assert taken > 500, f"seed {seed}"
    assert full, f"seed {seed}"
    assert stale, f"seed {seed}"


# ------------------------------------------------------------ between processes, as notices


FRAMES: list[Frame] = [b"head", memoryview(bytes(range(256)) * 100), b"", bytearray(b"tail" * 999)]


def done(work: Generator[None, None, T]) -> T:
    """Do all of it at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def opened(writer: Rings, reader: Rings) -> None:
    offer, follows = done(writer.notice("b", 0, FRAMES))
    assert offer.startswith(MARK)
    assert follows
    assert done(reader.read(offer)) is None


@pytest.fixture
def pair():  # type: ignore[no-untyped-def]
    writer, reader = Rings(1 << 20), Rings()
    before = len(os.listdir("/proc/self/fd"))
    yield writer, reader
    writer.close()
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


@needs_memfd
def test_a_ring_is_offered_once_and_then_used(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    opened(writer, reader)
    for _ in range(100):
        notice, follows = done(writer.notice("b", 0, FRAMES))
        assert not follows
        assert len(notice) < 100
        assert done(reader.read(notice)) == [bytes(f) for f in FRAMES]


@needs_memfd
def test_without_room_a_message_goes_as_it_is(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    opened(writer, reader)
    half: list[Frame] = [bytes(700_000)]
    notice, _ = done(writer.notice("b", 0, half))
    assert done(writer.notice("b", 0, half)) == (b"", True)
    assert done(writer.notice("b", 0, [bytes(2 << 20)])) == (b"", True)
    assert done(reader.read(notice)) == half
    assert not done(writer.notice("b", 0, half))[1]


@needs_memfd
def test_a_ring_that_nobody_opens_is_given_up() -> None:
    now_s = 100.0
    writer = Rings(1 << 20, lambda: now_s)
    assert done(writer.notice("b", 0, FRAMES))[0]
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        assert done(writer.notice("b", 0, FRAMES)) == (b"", True)
    assert len(os.listdir("/proc/self/fd")) == fds
    now_s += PATIENCE_S + 1
    for _ in range(2):
        assert done(writer.notice("b", 0, FRAMES)) == (b"", True)
    assert len(os.listdir("/proc/self/fd")) == fds - 2  # its own, and the one that mmap keeps
    assert done(writer.notice("b", 0, FRAMES)) == (b"", True)  # and none is offered again


@needs_memfd
def test_a_lost_offer_is_made_again(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    lost, _ = done(writer.notice("b", 0, FRAMES))
    writer.cut("b", 0)
    opened(writer, reader)
    done(reader.read(lost))  # it comes late: that ring is gone
    assert not done(writer.notice("b", 0, FRAMES))[1]


@needs_memfd
def test_notices_of_a_lost_connection_are_not_believed(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    opened(writer, reader)
    late, _ = done(writer.notice("b", 0, FRAMES))
    writer.cut("b", 0)
    again, _ = done(writer.notice("b", 0, FRAMES))
    assert done(reader.read(late)) is None
    assert done(reader.read(again)) == [bytes(f) for f in FRAMES]


@needs_memfd
def test_rings_go_some_time_after_their_peers() -> None:
    """What an ended process sent last may still wait to be read, when others come and go."""
    now_s = 5.0
    writer, reader = Rings(1 << 20), Rings(now=lambda: now_s)
    opened(writer, reader)
    notice, _ = done(writer.notice("b", 0, FRAMES))
    writer.close()
    reader.forget("a")  # told of the same end, or of another: it looks whose rings are gone
    other = Rings(1 << 20)
    opened(other, reader)
    assert done(reader.read(notice)) == [bytes(f) for f in FRAMES]
    now_s += LET_GO_S - 0.1
    assert reader.sweep()
    assert done(reader.read(notice)) == [bytes(f) for f in FRAMES]
    now_s += 0.1
    assert not reader.sweep()
    with pytest.raises(WireError, match="was not offered"):
        done(reader.read(notice))
    assert not done(other.notice("b", 0, FRAMES))[1]  # the other one is there
    other.close()
    reader.close()


@needs_memfd
def test_a_ring_is_kept_where_nobody_can_tell_whether_its_maker_is_gone(
    pair: tuple[Rings, Rings], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = pair
    opened(writer, reader)

    def refused(path: str) -> os.stat_result:
        raise PermissionError(13, "no", path)

    with monkeypatch.context() as patched:
        patched.setattr(rings_module.os, "stat", refused)
        assert not reader.sweep()
    notice, _ = done(writer.notice("b", 0, FRAMES))
    assert done(reader.read(notice)) == [bytes(f) for f in FRAMES]


@needs_memfd
def test_what_the_reader_let_go_of_is_used_no_more(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    opened(writer, reader)
    assert not done(writer.notice("b", 0, FRAMES))[1]
    reader.close()
    for _ in range(3):
        assert done(writer.notice("b", 0, FRAMES)) == (b"", True)


def test_a_ring_goes_only_where_its_memory_is_there() -> None:
    room = HEAD_BYTES + PIECE_BYTES
    asked: list[tuple[int, int]] = []

    def back(start: int, stop: int) -> bool:
        asked.append((start, stop))
        return stop <= room

    memory = memoryview(bytearray(HEAD_BYTES + 3 * PIECE_BYTES))
    writer, reader = RingWriter(memory, back), RingReader(memory)
    small = [b"s" * 1000]
    at = writer.put(small)
    assert at is not None
    assert asked == [(HEAD_BYTES, room)]
    assert writer.put([bytes(PIECE_BYTES)]) is None  # it would go further
    assert reader.take(at, [1000]) == small
    full = [b"f" * PIECE_BYTES]
    at = writer.put(full)
    assert at is not None
    assert reader.take(at, [PIECE_BYTES]) == full
    room += PIECE_BYTES  # some has become free
    at = writer.put([b"2" * 2 * PIECE_BYTES])
    assert at is not None
    assert reader.take(at, [2 * PIECE_BYTES]) == [b"2" * 2 * PIECE_BYTES]
    assert not any(memory[HEAD_BYTES + 2 * PIECE_BYTES :])


@needs_memfd
@pytest.mark.parametrize("missing", ["memfd_create", "posix_fallocate", "mmap"])
def test_where_there_is_no_memory_or_no_descriptor_all_goes_as_it_is(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(28, "nothing left")

    writer = Rings(1 << 20)
    fds = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(rings_module.mmap if missing == "mmap" else os, missing, refused)
    assert done(writer.notice("b", 0, FRAMES)) == (b"", True)
    assert len(os.listdir("/proc/self/fd")) == fds
    monkeypatch.undo()
    assert done(writer.notice("b", 0, FRAMES)) == (b"", True)
    writer.close()


@needs_memfd
def test_what_is_no_notice_is_refused_and_harms_nothing(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    opened(writer, reader)
    notice, _ = done(writer.notice("b", 0, FRAMES))
    rng = random.Random(1)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(notice)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(1, len(damaged))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del damaged[rng.randrange(1, len(damaged)) :]
        try:
            done(reader.read(bytes(damaged)))  # another place in the ring, at worst
        except WireError:
            refused += 1
    assert refused > 2000
    name = notice[2:18]
    for text, bad in (
        ("too short", b"\xc1"),
        ("outside of", notice[:2] + name + struct.pack("<QII", 0, 1, 2 << 20)),
        ("0 frames", notice[:2] + name + struct.pack("<QI", 0, 0)),
        (f"{MAX_FRAMES + 1} frames", notice[:2] + name + struct.pack("<QI", 0, MAX_FRAMES + 1)),
        ("kind 7", b"\xc1\x07" + notice[2:]),
        ("not offered", notice[:2] + bytes(16) + notice[18:]),
    ):
        with pytest.raises(WireError, match=text):
            done(reader.read(bad))
    again, _ = done(writer.notice("b", 0, FRAMES))
    assert done(reader.read(again)) == [bytes(f) for f in FRAMES]


def offer_of(name: bytes, fd: int, pid: int | None = None) -> bytes:
    return b"\xc1\x01" + name + struct.pack("<QQ", pid or os.getpid(), fd)


@needs_memfd
def test_what_is_no_ring_is_not_opened(tmp_path: Path, pair: tuple[Rings, Rings]) -> None:
    _, reader = pair
    name = os.urandom(16)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 1 << 20)
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 1 << 20)
    huge = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(huge, 1 << 50)  # more than a ring ever has: it costs nothing to offer
    fcntl.fcntl(huge, fcntl.F_ADD_SEALS, seals)
    pipe = os.pipe()
    try:
        for fd in (file, unsealed, huge, pipe[0]):
            with pytest.raises(WireError, match="offered as a ring and is none"):
                done(reader.read(offer_of(name, fd)))
        assert done(reader.read(offer_of(name, 10**6))) is None  # nothing there: nothing opened
        assert done(reader.read(offer_of(name, 0, 2**63))) is None
        fcntl.fcntl(unsealed, fcntl.F_ADD_SEALS, seals)
        assert (
            done(reader.read(offer_of(name, unsealed))) is None
        )  # another name: another namespace
        lies = b"\xc1\x02" + name + struct.pack("<QII", 0, 1, 5)
        with pytest.raises(WireError, match="was not offered"):
            done(reader.read(lies))
        with mmap.mmap(unsealed, 1 << 20) as memory:
            memory[HEAD_BYTES - 16 : HEAD_BYTES] = name
        assert done(reader.read(offer_of(name, unsealed))) is None
        assert done(reader.read(lies)) == [bytes(5)]
    finally:
        for fd in (file, unsealed, huge, *pipe):
            os.close(fd)


WRITER = """
import sys, time
from realnet.transport.rings import Rings
rings = Rings(1 << 20)
def tell(frame):
    notice = rings.notice("b", 0, [frame])
    while True:
        try:
            next(notice)
        except StopIteration as end:
            print(end.value[0].hex(), flush=True)
            return
tell(bytes(40000))
sys.stdin.readline()
tell(b"x" * 40000)
time.sleep(600)
"""


@needs_memfd
def test_what_a_killed_process_put_in_is_still_read_and_then_let_go() -> None:
    now_s = 1.0
    reader = Rings(now=lambda: now_s)
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert done(reader.read(bytes.fromhex(process.stdout.readline().decode()))) is None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            notice = bytes.fromhex(process.stdout.readline().decode())
        finally:
            process.send_signal(signal.SIGKILL)
        process.wait()
    reader.forget("that one")
    assert done(reader.read(notice)) == [b"x" * 40000]
    now_s += LET_GO_S
    reader.forget("another")
    with pytest.raises(WireError, match="was not offered"):
        done(reader.read(notice))
    reader.close()


# ------------------------------------------------------------ under a transport


class Taken(End):
    """What came out of it, with the frames."""

    def __init__(self, slot: str, folder: Path) -> None:
        endpoint = ipc_endpoint(folder, slot.partition("/")[0])
        super().__init__(slot, ZmqTransport(endpoint))
        self.frames: list[Sequence[Frame]] = []

    def take(self, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        assert isinstance(op, wire.Tell)
        self.got.append(int(op.body.kind))
        self.frames.append(frames)


def big(number: int, size: int) -> tuple[wire.Tell, list[Frame]]:
    frame = bytes([number % 251]) * size
    return wire.Tell(wire.Body(str(number), msgspec.Raw(b"\xc0"), 1)), [frame]


def linked(folder: Path) -> tuple[Taken, Taken]:
    a, b = Taken("a/0~1", folder), Taken("b/0~1", folder)
    a.links.open(b.slot, b.transport.endpoint)
    b.links.open(a.slot, a.transport.endpoint)
    return a, b


def used(end: End) -> int:
    rings = end.transport._rings  # type: ignore[attr-defined]
    return sum(m.ring._next > 0 for m in rings._made.values() if m) if rings is not None else -1


@needs_memfd
async def test_large_frames_go_through_a_ring_in_order_with_small_ones(tmp_path: Path) -> None:
    a, b = linked(tmp_path)
    async with ends(a, b):
        rng = random.Random(3)
        a.send(b.slot, *big(0, FROM_BYTES))
        await until(lambda: b.got == [0])
        for i in range(1, 600):
            a.send(
                b.slot, *big(i, rng.choice((10, FROM_BYTES - 1, FROM_BYTES, 300_000, 2_000_000)))
            )
            if not i % 20:
                await until(lambda least=i - 40: len(b.got) >= least)  # type: ignore[misc]
        await until(lambda: len(b.got) == 600)
        assert b.got == list(range(600))
        for i, (frame,) in zip(b.got, b.frames, strict=True):
            assert set(bytes(frame[:1]) + bytes(frame[-1:])) == {i % 251}
        assert used(a) == 1
        assert not a.errors
        assert not b.errors


@needs_memfd
async def test_nothing_is_lost_or_doubled_while_connections_are_cut(tmp_path: Path) -> None:
    """The sockets of one end are shut down under it; rings and sessions go on."""
    a, b = linked(tmp_path)
    async with ends(a, b):
        cuts = i = in_rings = 0
        while cuts < 24:
            for _ in range(40):
                a.send(b.slot, *big(i, 200_000 if i % 3 else 20))
                i += 1
                await asyncio.sleep(0)
            at_least = i - 20
            await until(lambda least=at_least: len(b.got) >= least)  # type: ignore[misc]
            in_rings += used(a)
            cuts += cut_sockets(tmp_path)
        await until(lambda: len(b.got) == i)
        assert b.got == list(range(i))
        assert all({f[0][0], f[0][-1]} == {n % 251} for n, f in zip(b.got, b.frames, strict=True))
        assert in_rings


@pytest.mark.skipif(not has_memfd(), reason="it is the ordinary way here")
async def test_without_shared_memory_all_goes_over_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLAIN, "1")
    a, b = linked(tmp_path)
    assert a.transport.inline_bytes == INLINE_BYTES
    monkeypatch.delenv(PLAIN)
    monkeypatch.setattr(rings_module.host, "has_memfd", lambda: False)
    async with ends(a, b):
        for i in range(50):
            a.send(b.slot, *big(i, 100_000))
        await until(lambda: b.got == list(range(50)))
        assert used(a) == 0
    monkeypatch.undo()
    c, d = linked(tmp_path)
    async with ends(c, d):
        assert c.transport.inline_bytes == NEAR_INLINE_BYTES


@needs_memfd
async def test_what_an_end_sent_last_arrives_though_others_come_and_go(tmp_path: Path) -> None:
    a, b = linked(tmp_path)
    c = Taken("c/0~1", tmp_path)
    async with ends(b, c):
        try:
            a.send(b.slot, *big(0, 100_000))
            await until(lambda: b.got == [0])
            a.send(b.slot, *big(1, 100_000))
            a.links.flush()
            assert used(a) == 1
        finally:
            a.closed = True
            a.transport.close(1.0)  # its ring is gone before b has looked
        b.transport._rings.sweep()  # type: ignore[attr-defined]
        await until(lambda: b.got == [0, 1])
        assert not b.errors


@needs_memfd
async def test_one_message_that_cannot_be_taken_holds_up_none(tmp_path: Path) -> None:
    """The descriptor of a socket tells once of all that waits: an error must not end the turn."""
    a, b = linked(tmp_path)
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: told.append(str(context.get("exception")))
    )
    async with ends(a, b):
        a.send(b.slot, *big(0, 100_000))
        await until(lambda: b.got == [0])
        inbox = b.transport._inboxes[0]  # type: ignore[attr-defined]
        take, calls = inbox._on_message, 0

        def full(*args: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise MemoryError("no room for it")
            take(*args)

        inbox._on_message = full
        for i in range(1, 40):
            a.send(b.slot, *big(i, 100_000 if i % 2 else 10))
        a.links.flush()
        await until(lambda: b.got == list(range(40)))
        assert calls > 2
        assert told == ["no room for it"]


async def test_one_message_that_cannot_be_sent_holds_up_none_of_its_lane() -> None:
    rings, given, told = Rings(), [], []

    def refused(*_: object) -> Generator[None, None, tuple[bytes, bool]]:
        yield
        raise MemoryError("no room for it")

    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: told.append(str(context.get("exception")))
    )
    rings.notice = refused  # type: ignore[method-assign]
    outbox = Outbox("b", rings, Pace(), lambda lane, frames: given.append((lane, frames)))
    outbox.send(1, [bytes(1_000_000)])
    outbox.send(1, [b"next"])
    await until(lambda: given == [(1, [b"next"])])
    assert told == ["no room for it"]
