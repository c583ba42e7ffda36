"""Append records and learn when they are durable; read them back after a death.

Appends that arrive while an fsync runs share the next one. What was appended before something else
is never durable after it. A record that could not be written stays queued: `sync` tries it
again. Segments are numbered files; whole ones are trimmed when no record in them is needed.

Knows nothing of what records mean. Called by the trainer's store. The fsync runs in a thread of the
journal's own (the trainer's compute thread may be inside a step for minutes), or through the runner
that is handed in.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from realnet.errors import CheckpointError
from realnet.roles.journal import frames

Runner = Callable[[Callable[[], None]], Awaitable[None]]
Record = tuple[str, bytes]

SEGMENT_BYTES = 64 * 2**20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class JournalFull(CheckpointError):
    """There is no room for a record now; it stays queued, and `sync` tries again."""


class JournalBroken(CheckpointError):
    """The disk failed. What is durable can be read after a restart; nothing more is written."""


class Entry(NamedTuple):
    """One record as replayed, with the segment that holds it."""

    segment: int
    kind: str
    body: bytes


class Journal:
    """One journal in one folder. Open it, replay it, then append."""

    def __init__(
        self,
        folder: Path,
        *,
        run: Runner | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = folder
        self.segment = 0  # the one that is written now
        self.syncs = 0  # fsyncs done: appends per fsync is what group commit gains
        self._segment_bytes = segment_bytes
        self._notice = notice
        self._threads = None if run else ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._run: Runner = run or self._run_in_thread
        self._file = -1
        self._files: list[int] = []
        weakref.finalize(self, _close, self._files)  # an owner that was killed does not close
        self._end = 0
        self._broken = ""
        self._pending: list[bytes] = []
        self._enqueued = self._durable = 0
        self._turn = asyncio.Lock()
        self._one_writer = threading.Lock()

    # ------------------------------------------------------------ opening and reading (blocking)

    def open(self) -> None:
        """Take the folder, cut a torn tail off, and get ready to append.

        Raises JournalDamaged, and CheckpointError when another process has the journal.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._files.append(lock)
        try:  # held by the process: an actor that is dropped and made anew in one gets it again
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"another process writes {self.folder}: is an older trainer of this run alive? "
                "End it first"
            ) from None
        segments = self._segments()
        if not segments:
            self._start_segment(1)
            return
        path = self._path(segments[-1])
        self._end = len(frames.MAGIC)
        for frame in frames.read(path, last=True):
            self._end = frame.offset if isinstance(frame, frames.Torn) else frame.end
            if isinstance(frame, frames.Torn):
                self._notice(
                    f"{path} ended inside a record; {frame.lost_bytes} bytes that were never "
                    f"acknowledged were cut off at offset {frame.offset}"
                )
        if self._end == 0:
            self._start_segment(segments[-1])
            return
        self._file = os.open(path, os.O_RDWR)
        self._files.append(self._file)
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        os.fsync(self._file)
        self.segment = segments[-1]

    @property
    def first(self) -> int:
        """The number of the first segment that is there; 0: none. Raises JournalDamaged."""
        segments = self._segments()
        return segments[0] if segments else 0

    def replay(self, begin: int = 0) -> Iterator[Entry]:
        """Yield every record, from segment `begin` on, in the order of appending.

        Reading alone needs no `open`. Raises JournalDamaged.
        """
        segments = self._segments()
        for index in segments:
            if index < begin:
                continue
            for frame in frames.read(self._path(index), last=index == segments[-1]):
                if isinstance(frame, frames.Frame):
                    yield Entry(index, frame.kind, frame.body)

    def close(self) -> None:
        """Let go of files and thread. What is not durable by now is not written."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        _close(self._files)
        self._file = -1
        self._broken = self._broken or "it was closed"

    # ------------------------------------------------------------ appending

    async def append(self, kind: str, body: bytes) -> None:
        """Append one record; return when it is durable."""
        await self.append_all([(kind, body)])

    async def append_all(self, records: Sequence[Record]) -> None:
        """Append these in order; return when all are durable.

        Raises JournalFull (they stay queued: call `sync` when there is room) or JournalBroken.
        """
        self.queue(records)
        await self.sync()

    def queue(self, records: Sequence[Record]) -> None:
        """Append these in order, durable with whatever is synced next."""
        self._pending.extend([frames.pack(kind, body) for kind, body in records])
        self._enqueued += len(records)

    async def sync(self) -> None:
        """Return when everything appended so far is durable."""
        upto = self._enqueued
        if self._durable >= upto:
            return
        async with self._turn:  # whoever comes while another's fsync runs shares the next one
            if self._durable < upto:
                await self._run(self._commit)

    async def rotate(self) -> None:
        """Begin a new segment, so that the ones before can be trimmed some day."""
        async with self._turn:
            await self._run(self._rotate)

    async def trim(self, below: int) -> int:
        """Remove the segments numbered lower than `below`; return how many went."""
        gone: list[int] = []

        def remove() -> None:
            for index in self._segments():
                if index < min(below, self.segment):
                    self._path(index).unlink()
                    gone.append(index)
            if gone:
                _sync_folder(self.folder)

        await self._run(remove)
        return len(gone)

    # ------------------------------------------------------------ in the thread

    async def _run_in_thread(self, work: Callable[[], None]) -> None:
        assert self._threads is not None
        await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _commit(self) -> None:
        with self._one_writer:
            self._usable()
            chunks = self._pending[:]
            if not chunks:
                return
            data = b"".join(chunks)
            self._write(data)
            try:
                os.fsync(self._file)
            except OSError as error:  # the kernel may have dropped the pages: nothing is known now
                self._broken = f"fsync failed: {error.strerror}"
                raise JournalBroken(f"{self._path(self.segment)}: {self._broken}") from error
            self.syncs += 1
            self._end += len(data)
            del self._pending[: len(chunks)]
            self._durable += len(chunks)
            if self._end >= self._segment_bytes:
                self._try_to_rotate()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            path = self._path(self.segment)
            try:
                os.ftruncate(self._file, self._end)
                os.lseek(self._file, self._end, os.SEEK_SET)
            except OSError as second:
                self._broken = f"half a record could not be taken back: {second.strerror}"
            if error.errno in _NO_ROOM and not self._broken:
                raise JournalFull(
                    f"no room for {len(data)} bytes in {path} ({error.strerror}): free some space; "
                    "the records wait in memory and nothing is acknowledged meanwhile"
                ) from error
            self._broken = self._broken or f"write failed: {error.strerror}"
            raise JournalBroken(f"{path}: {self._broken}") from error

    def _rotate(self) -> None:
        with self._one_writer:
            self._usable()
            if self._end > len(frames.MAGIC):
                self._try_to_rotate()

    def _try_to_rotate(self) -> None:
        old = self._file
        try:
            self._start_segment(self.segment + 1)
        except OSError as error:
            self._notice(f"{self.folder}: no new segment ({error.strerror}); the old one grows")
        else:
            self._files.remove(old)
            os.close(old)

    def _start_segment(self, index: int) -> None:
        path = self._path(index)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, frames.MAGIC)
            os.fsync(file)
            _sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._files.append(file)
        self._file, self.segment, self._end = file, index, len(frames.MAGIC)

    def _usable(self) -> None:
        if self._broken:
            raise JournalBroken(f"the journal in {self.folder} takes no records: {self._broken}")

    # ------------------------------------------------------------ files

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.log"

    def _segments(self) -> list[int]:
        found = sorted(int(p.stem) for p in self.folder.glob("*.log") if p.stem.isdigit())
        if found and found != list(range(found[0], found[-1] + 1)):
            lost = min(set(range(found[0], found[-1])) - set(found))
            raise frames.JournalDamaged(f"{self._path(lost)} is missing: segments follow it")
        return found


def _close(files: list[int]) -> None:
    while files:
        os.close(files.pop())


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
