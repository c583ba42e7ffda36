"""Shared memory of a host, owned by its agent.

Each arena is a sealed memfd of fixed size, opened by others through /proc/PID/fd/N: it needs no
name in /dev/shm, survives the role that writes it, and vanishes with its last holder, however
that one dies.

Knows nothing of what is in it. Called by `head.py` for one host.
"""

from __future__ import annotations

import fcntl
import os

from realnet.errors import RealnetError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Arenas:
    """The arenas of this process."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, int]] = {}

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
            fd = os.memfd_create(f"realnet-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.posix_fallocate(fd, 0, num_bytes)  # pages now: a first touch is 10x slower
            except OSError as error:
                os.close(fd)
                raise RealnetError(
                    f"no room for {num_bytes} bytes of shared memory ({name}): {error.strerror}"
                ) from None
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self._open[name] = (fd, num_bytes)
        return f"/proc/{os.getpid()}/fd/{fd}"

    def close(self) -> None:
        """Let go of all of them."""
        for fd, _ in self._open.values():
            os.close(fd)
        self._open.clear()
