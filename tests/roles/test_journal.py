"""A journal gives back a prefix of what was appended, and every acknowledged record of it."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from realnet.roles.journal import Journal, JournalBroken, JournalDamaged, JournalFull


async def inline(work: Callable[[], None]) -> None:
    work()


def opened(folder: Path, **options: object) -> Journal:
    journal = Journal(folder, **{"run": inline, **options})  # type: ignore[arg-type]
    journal.open()
    return journal


def read(folder: Path) -> list[tuple[str, bytes]]:
    """Open as a successor would, read everything, let go."""
    journal = opened(folder)
    try:
        return [(entry.kind, entry.body) for entry in journal.replay()]
    finally:
        journal.close()


async def write(folder: Path, records: list[tuple[str, bytes]], **options: object) -> None:
    journal = opened(folder, **options)
    for kind, body in records:
        await journal.append(kind, body)
    journal.close()


RECORDS = [("issued", b"0-8"), ("scored", b"x" * 40), ("closed", b""), ("aside", b"poison")]


async def test_records_come_back_in_order_and_appending_goes_on(tmp_path: Path) -> None:
    await write(tmp_path, RECORDS)
    await write(tmp_path, [("more", b"1")])
    assert read(tmp_path) == [*RECORDS, ("more", b"1")]


async def test_killed_at_any_byte_a_prefix_is_left(tmp_path: Path) -> None:
    await write(tmp_path / "a", RECORDS)
    whole = (tmp_path / "a" / "000001.log").read_bytes()
    lengths = set()
    for cut in range(len(whole) + 1):
        folder = tmp_path / "b"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "000001.log").write_bytes(whole[:cut])
        notices: list[str] = []
        journal = opened(folder, notice=notices.append)
        got = [(e.kind, e.body) for e in journal.replay()]
        await journal.append("after", b"!")
        journal.close()
        assert got == RECORDS[: len(got)]
        assert read(folder) == [*got, ("after", b"!")]
        assert all("000001.log ended inside a record" in text for text in notices)
        lengths.add(len(got))
    assert lengths == {0, 1, 2, 3, 4}


async def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    await write(tmp_path / "a", RECORDS)
    whole = (tmp_path / "a" / "000001.log").read_bytes()
    rng = random.Random(1)
    for at in range(len(whole)):
        folder = tmp_path / "b"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        (folder / "000001.log").write_bytes(damaged)
        with pytest.raises(JournalDamaged, match=r"000001\.log is damaged at offset \d+"):
            read(folder)


async def test_a_torn_record_with_segments_after_it_is_damage(tmp_path: Path) -> None:
    await write(tmp_path, RECORDS * 4, segment_bytes=100)
    first = tmp_path / "000001.log"
    assert (tmp_path / "000002.log").exists()
    first.write_bytes(first.read_bytes()[:-3])
    with pytest.raises(JournalDamaged, match=r"000001\.log .* segments follow"):
        read(tmp_path)
    first.unlink()
    assert len(read(tmp_path)) < 16  # trimmed from the front: fine
    (tmp_path / "000003.log").unlink()
    with pytest.raises(JournalDamaged, match=r"000003\.log is missing"):
        read(tmp_path)


async def test_zeros_after_a_loss_of_power_are_a_torn_tail(tmp_path: Path) -> None:
    await write(tmp_path, RECORDS)
    path = tmp_path / "000001.log"
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert read(tmp_path) == RECORDS


async def test_appends_that_arrive_during_an_fsync_share_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path)  # with its own thread
    journal.open()
    try:
        await asyncio.gather(*(journal.append("n", b"%d" % n) for n in range(100)))
        assert [int(e.body) for e in journal.replay()] == list(range(100))
        assert journal.syncs < 50
    finally:
        journal.close()


async def test_nothing_is_acknowledged_before_its_fsync(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(work: Callable[[], None]) -> None:
        await gate.wait()
        work()

    journal = opened(tmp_path, run=slow)
    first = asyncio.ensure_future(journal.append("a", b"1"))
    second = asyncio.ensure_future(journal.append("b", b"2"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not first.done()
    assert not second.done()
    gate.set()
    await asyncio.gather(first, second)
    assert journal.syncs == 1
    journal.close()
    assert read(tmp_path) == [("a", b"1"), ("b", b"2")]


async def test_a_cancelled_append_leaves_the_others_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    try:
        tasks = [asyncio.ensure_future(journal.append("n", b"%d" % n)) for n in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[7].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await journal.sync()
        kept = [int(e.body) for e in journal.replay()]
    finally:
        journal.close()
    assert kept == sorted(kept)
    assert {n for n, result in enumerate(done) if result is None} <= set(kept)


async def test_trim_removes_whole_segments_below_the_mark_only(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for n in range(4):
        await journal.append("n", b"%d" % n)
        await journal.rotate()
    await journal.rotate()  # an empty segment is not left behind
    assert journal.segment == 5
    assert await journal.trim(3) == 2
    assert [(e.segment, e.body) for e in journal.replay()] == [(3, b"2"), (4, b"3")]
    assert await journal.trim(99) == 2
    await journal.append("n", b"9")
    assert [e.body for e in journal.replay()] == [b"9"]
    journal.close()


async def test_a_full_disk_keeps_the_record_queued_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    await journal.append("a", b"1")
    real, calls = os.write, 0

    def full(file: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            return real(file, data[:5])  # half a record gets out first
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for kind in "bc":
        with pytest.raises(JournalFull, match=r"000001\.log .*No space left"):
            await journal.append(kind, b"2")
    monkeypatch.setattr(os, "write", real)
    assert [e.kind for e in journal.replay()] == ["a"]
    await journal.sync()
    await journal.append("d", b"3")
    journal.close()
    assert [kind for kind, _ in read(tmp_path)] == ["a", "b", "c", "d"]


async def test_after_a_failed_fsync_nothing_more_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    await journal.append("a", b"1")

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(JournalBroken, match="fsync failed"):
        await journal.append("b", b"2")
    monkeypatch.undo()
    with pytest.raises(JournalBroken, match="takes no records"):
        await journal.append("c", b"3")
    journal.close()
    assert read(tmp_path)[0] == ("a", b"1")


def test_a_second_process_that_would_write_is_refused(tmp_path: Path) -> None:
    first = opened(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from realnet.roles.journal import Journal\n"
        "from realnet.errors import CheckpointError\n"
        "try: Journal(pathlib.Path(sys.argv[1])).open()\n"
        "except CheckpointError as error: print(error)\n"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    first.close()
    assert "another process writes" in told.stdout
