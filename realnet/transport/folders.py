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
import tempfile
from pathlib import Path

LOCK = ".held"
LONGEST_NAME = 40  # of a socket: a slot, its incarnation and lane
_PREFIX = "realnet-"
_RANDOM = 10  # characters that mkdtemp adds, and a slash


class SocketsFolder:
    """A folder of mode 0700 that is this process's until `close`, or until its death."""

    def __init__(self, name: str, longest_path: int):
        """Make it in TMPDIR; in /tmp where a socket's path there would be over `longest_path`.

        What dead processes of this user left there is removed.
        """
        place = tempfile.gettempdir()
        if len(place) + len(_PREFIX + name) + _RANDOM + LONGEST_NAME > longest_path:
            place = "/tmp"
        sweep(Path(place))
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=place))
        part = self.path / f"{LOCK}.part"
        self._lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self._lock, platform.node().encode())
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        part.rename(self.path / LOCK)  # not before it is held: one that is not is swept

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(place: Path) -> list[Path]:
    """Remove the folders there whose processes are dead; return which.

    Only those of this host: where TMPDIR is a shared one, locks of others may not be seen.
    """
    own = platform.node().encode()
    swept = []
    for lock in place.glob(f"{_PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):  # another user's, held, or just gone
            held = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.read(held, 256) != own:
                    continue
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
                swept.append(lock.parent)
            finally:
                os.close(held)
    return swept
