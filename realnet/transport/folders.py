"""The folder on a host in which the processes of one agent have their sockets.

An agent that is killed, or whose host loses power, leaves its folder behind. It holds a lock in it
that the kernel takes back with the process, so that the next agent on this host can tell what
nobody uses, and removes it. (A process number would not do: another process gets it.)

Knows nothing of transports. Made by `launch/agent.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import stat
import tempfile
from pathlib import Path

LOCK = ".held"
LONGEST_NAME = 40  # of a socket: a slot, its incarnation and lane
OTHERWISE = Path("/tmp")  # where TMPDIR will not do
_PREFIX = "realnet-"
_RANDOM = 10  # characters that mkdtemp adds, and a slash


class SocketsFolder:
    """A folder of mode 0700 that is this process's until `close`, or until its death."""

    def __init__(self, name: str, longest_path: int):
        """Make it in TMPDIR; in /tmp where a socket's path there would be over `longest_path`, or
        where that is a file system without locks, as some shared ones are.

        What dead processes of this user left there is removed. Raises OSError.
        """
        place = Path(tempfile.gettempdir())
        if len(str(place)) + len(_PREFIX + name) + _RANDOM + LONGEST_NAME > longest_path:
            place = OTHERWISE
        try:
            self.path, self._lock = _make(place, name)
        except OSError:
            if place == OTHERWISE:
                raise
            self.path, self._lock = _make(OTHERWISE, name)

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _make(place: Path, name: str) -> tuple[Path, int]:
    """Sweep a place and make a folder there; return it and its lock, which is held."""
    sweep(place)
    path, lock = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=place)), -1
    try:
        part = path / f"{LOCK}.part"
        lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(lock, platform.node().encode())
        fcntl.flock(lock, fcntl.LOCK_EX)
        part.rename(path / LOCK)  # not before it is held: one that is not is swept
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        raise
    return path, lock


def sweep(place: Path) -> list[Path]:
    """Remove the folders there whose processes are dead; return which.

    Only those of this user: what others put into /tmp is not even opened. Only those of this host:
    where TMPDIR is a shared one, locks of others may not be seen.
    """
    own = platform.node().encode()
    swept = []
    for lock in place.glob(f"{_PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):  # held, or just gone
            about = lock.parent.lstat()
            if about.st_uid != os.geteuid() or not stat.S_ISDIR(about.st_mode):
                continue
            held = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.read(held, 256) != own:
                    continue
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
                swept.append(lock.parent)
            finally:
                os.close(held)
    return swept
