"""The rings of one process: large messages to processes of the same host go through shared memory.

A socket copies twice, in io threads that take turns with everything else on a small machine; a
ring costs one copy at the writer's end, and at most one at the reader's. Nothing else about a link
changes: what goes over the socket in place of the frames is a short notice where they lie, in order
with all other messages, and if it is lost, the session sends them again.

A ring is made when the first large message goes to a peer on a lane, is a sealed memfd that the
reader opens through /proc/PID/fd/N, and is offered once; until the reader has it open, or when it
is full, or for what is larger than half of it, messages go over the socket as they are. So nothing
depends on rings: where they cannot be opened (other PID namespaces, no memfds) or get no memory,
they are not used. A ring outlives its maker for a moment: what that sent last is still read.
Permissions are those of /proc: this user's processes. The reader checks that the memory is what
was offered, cannot shrink under it, and copies before anything is decoded; large arrays, of which
nothing is decoded, may stay where they are (`held.py`).

Not for links with keys: who asked for encryption inside a host gets it. Knows nothing of records.
Owned by `zmq.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import NamedTuple

from realnet import host
from realnet.codec import MAX_FRAMES, Frame
from realnet.errors import WireError
from realnet.transport.ring import HEAD_BYTES, RingReader, RingWriter

CAPACITY_BYTES = 64 * 2**20  # touched only as far as messages are under way at once
FROM_BYTES = 16 * 1024  # below, a notice costs as much as the message
MAX_RINGS = 4096
PATIENCE_S = 10.0  # then a ring that nobody opens is given up
LET_GO_S = 3.0  # a ring is kept after its maker: notices of it may still wait to be read
MARK = b"\xc1"  # of a notice: no batch begins with it, nor anything else that is MessagePack
_OFFER, _LIES = 1, 2
_HEAD = struct.Struct("<cB16s")
_PLACE = struct.Struct("<QQ")  # an offer: process and descriptor
_MESSAGE = struct.Struct("<QI")  # where it lies: position, number of frames; then their sizes
_SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")


def _seals() -> int:
    return sum(int(getattr(fcntl, name)) for name in _SEALS)


def _is_sealed(fd: int) -> bool:
    """Tell whether this is memory that nobody can shrink under who reads it."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _seals() == _seals()
    except OSError:  # another kind of file
        return False


class _Made(NamedTuple):
    """A ring to a peer."""

    name: bytes
    fd: int
    memory: mmap.mmap
    ring: RingWriter


class _Opened(NamedTuple):
    """A ring that a peer made, and what tells it from another file at the same place."""

    path: str
    file: tuple[int, int]
    memory: mmap.mmap
    ring: RingReader


class Rings:
    """Rings to the peers of a transport, by peer and lane, and those that peers have offered."""

    def __init__(
        self, capacity_bytes: int = CAPACITY_BYTES, now: Callable[[], float] = time.monotonic
    ):
        self._capacity = capacity_bytes
        self._now = now
        self._made: dict[tuple[str, int], _Made | None] = {}  # None: there is to be none
        self._tried: dict[tuple[str, int], float] = {}  # offered, since when
        self._opened: dict[bytes, _Opened] = {}
        self._gone: dict[bytes, float] = {}  # those whose makers are gone, since when

    # ------------------------------------------------------------ to a peer

    def notice(
        self, peer: str, lane: int, frames: Sequence[Frame]
    ) -> Generator[None, None, tuple[bytes, bool]]:
        """Put a message into the ring to a peer, with a pause after each piece.

        Return what is to be sent: a notice in place of the frames, and whether the frames have to
        follow as a message of their own all the same; b"" and True for a message without a notice.
        Messages of one peer and lane are put in one after the other.
        """
        key = peer, lane
        made = self._made.get(key)
        if made is None:
            if key in self._made:
                return b"", True
            made = self._made[key] = _make(self._capacity)
            if made is None:
                return b"", True
            self._tried[key] = self._now()
            return _HEAD.pack(MARK, _OFFER, made.name) + _PLACE.pack(os.getpid(), made.fd), True
        if not made.ring.ready:  # not yet, or no more
            if key in self._tried and self._now() - self._tried[key] > PATIENCE_S:
                self._drop(key)
                self._made[key] = None
            return b"", True
        self._tried.pop(key, None)
        at = yield from made.ring.putting(frames)
        if at is None:
            return b"", True
        sizes = struct.pack(f"<{len(frames)}I", *map(len, frames))
        head = _HEAD.pack(MARK, _LIES, made.name)
        return head + _MESSAGE.pack(at, len(frames)) + sizes, False

    def cut(self, peer: str, lane: int) -> None:
        """The connection was lost, or there is a new one: what was sent before may not come."""
        key = peer, lane
        made = self._made.get(key)
        if made is None:
            return
        if key in self._tried:  # the offer itself may be lost
            self._drop(key)
        else:
            made.ring.forget()

    def forget(self, peer: str) -> None:
        """A peer is gone: drop the rings to it."""
        for key in [k for k in self._made if k[0] == peer]:
            self._drop(key)
        self.sweep()

    def close(self) -> None:
        """Let go of all of them."""
        for key in list(self._made):
            self._drop(key)
        for name in list(self._opened):
            self._shut(name)

    def _drop(self, key: tuple[str, int]) -> None:
        made = self._made.pop(key, None)
        self._tried.pop(key, None)
        if made is not None:
            made.ring.release()
            made.memory.close()
            os.close(made.fd)

    # ------------------------------------------------------------ from a peer

    def read(self, notice: Frame) -> Generator[None, None, list[Frame] | None]:
        """Return the frames that a notice speaks of; None for an offer, and for what is late.

        It pauses after each piece; notices of one lane are read one after the other. Raises
        WireError for what is no notice of a ring that was offered.
        """
        try:
            _, kind, name = _HEAD.unpack_from(notice)
        except struct.error:
            raise WireError("a damaged notice came in: it is too short") from None
        if kind == _OFFER and len(notice) == _HEAD.size + _PLACE.size:
            self._open(name, *_PLACE.unpack_from(notice, _HEAD.size))
            return None
        if kind != _LIES or len(notice) < _HEAD.size + _MESSAGE.size:
            raise WireError(f"a damaged notice came in: kind {kind}, {len(notice)} bytes")
        opened = self._opened.get(name)
        if opened is None:
            raise WireError("a notice came in of a ring that was not offered")
        position, count = _MESSAGE.unpack_from(notice, _HEAD.size)
        if not 0 < count <= MAX_FRAMES or len(notice) != _HEAD.size + _MESSAGE.size + 4 * count:
            raise WireError(f"a damaged notice came in: {count} frames, {len(notice)} bytes")
        sizes = struct.unpack_from(f"<{count}I", notice, _HEAD.size + _MESSAGE.size)
        try:
            return (yield from opened.ring.taking(position, sizes))
        except ValueError as error:
            if self._opened.get(name) is not opened:  # its maker is gone, and so it was let go
                return None
            raise WireError(f"a damaged notice came in: {error}") from None

    def _open(self, name: bytes, pid: int, fd: int) -> None:
        """Open what is offered. If that fails the peer sees that nobody has, and goes on without.

        Raises WireError for something else than a ring.
        """
        self.sweep()
        if name in self._opened or len(self._opened) >= MAX_RINGS or not host.has_memfd():
            return
        path = f"/proc/{pid}/fd/{fd}"
        try:
            own = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            return  # another PID namespace, or it is gone already
        try:
            about = os.fstat(own)
            size_fits = HEAD_BYTES < about.st_size <= HEAD_BYTES + CAPACITY_BYTES
            if not size_fits or not _is_sealed(own):
                raise WireError(f"{path} was offered as a ring and is none")
            memory = mmap.mmap(own, about.st_size)
        except OSError:
            return
        finally:
            os.close(own)
        if memory[HEAD_BYTES - len(name) : HEAD_BYTES] != name:  # the same number elsewhere
            memory.close()
            return
        file = about.st_dev, about.st_ino
        self._opened[name] = _Opened(path, file, memory, RingReader(memoryview(memory)))

    def sweep(self) -> bool:
        """Let go of rings whose makers have been gone, or have let go of them, for `LET_GO_S`.

        Return whether there are some that are gone, but not for so long.
        """
        now_s = self._now()
        for name, opened in list(self._opened.items()):
            if _is_still_there(opened):
                self._gone.pop(name, None)
            elif now_s - self._gone.setdefault(name, now_s) >= LET_GO_S:
                self._shut(name)
        return bool(self._gone)

    def _shut(self, name: bytes) -> None:
        self._gone.pop(name, None)
        opened = self._opened.pop(name)
        opened.ring.release()
        with contextlib.suppress(BufferError):  # arrays lie there: it goes with the last of them
            opened.memory.close()


def _is_still_there(opened: _Opened) -> bool:
    """Tell whether who made a ring has it open; also where nobody can tell."""
    try:
        about = os.stat(opened.path)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    return (about.st_dev, about.st_ino) == opened.file


def _make(capacity_bytes: int) -> _Made | None:
    """Return a new ring; None where there can be none."""
    if not host.has_memfd():
        return None
    name, size = os.urandom(16), HEAD_BYTES + capacity_bytes
    try:
        fd = os.memfd_create("realnet-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _seals())
        memory = mmap.mmap(fd, size)
    except OSError:
        os.close(fd)
        return None
    back = partial(_back, fd)
    if not back(0, HEAD_BYTES):
        memory.close()
        os.close(fd)
        return None
    memory[HEAD_BYTES - len(name) : HEAD_BYTES] = name
    return _Made(name, fd, memory, RingWriter(memoryview(memory), back))


def _back(fd: int, start: int, stop: int) -> bool:
    """See that these bytes of a memory are there; False if the system has none left."""
    try:
        os.posix_fallocate(fd, start, stop - start)
    except OSError:
        return False
    return True
