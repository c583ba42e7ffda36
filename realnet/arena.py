"""Shared memory of a host, owned by its agent.

Each arena is a sealed memfd of fixed size, opened by others through /proc/PID/fd/N: it needs no
name in /dev/shm, survives the role that writes it, and vanishes with its last holder, however
that one dies. Where there are no memfds (macOS) it is a file in a private folder, which is removed
at the end of the run; a head that is killed leaves it to the system's cleaning of its temporary
files.

Knows nothing of what is in it. Called by `head.py` for one host.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from realnet import host
from realnet.errors import RealnetError


class Arenas:
    """The arenas of this process."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, int]] = {}
        self._folder: Path | None = None

    def open(self, name: str, num_bytes: int) -> str:
        """Return the path of an arena; the same name and size give the same memory."""
        known = self._open.get(name)
        if known is not None:
            fd, size = known
            if size != num_bytes:
                raise RealnetError(
                    f"shared memory {name!r} has {size} bytes and was asked for with {num_bytes}"
                )
        else:
            fd = self._make(name)
            try:
                _allocate(fd, num_bytes)
            except OSError as error:
                os.close(fd)
                raise RealnetError(
                    f"no room for {num_bytes} bytes of shared memory ({name}): {error.strerror}"
                ) from None
            if self._folder is None:
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            self._open[name] = (fd, num_bytes)
        if self._folder is not None:
            return str(self._path(name))
        return f"/proc/{os.getpid()}/fd/{fd}"

    def _make(self, name: str) -> int:
        if host.has_memfd():
            return os.memfd_create(f"realnet-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="realnet-memory-"))  # 0700
        return os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / hashlib.blake2b(name.encode(), digest_size=16).hexdigest()

    def close(self) -> None:
        """Let go of all of them."""
        for fd, _ in self._open.values():
            os.close(fd)
        self._open.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _allocate(fd: int, num_bytes: int) -> None:
    """Give it all its pages now: a first touch is 10x slower, and a full host is told at once."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, num_bytes)
        return
    page = bytes(1 << 20)
    for at in range(0, num_bytes, len(page)):
        os.pwrite(fd, page[: num_bytes - at], at)
