"""A /dev/shm of the tests' own, so that whatever is left in it was left by a test.

A name in /dev/shm does not say who made it: `sem.mp-x8k2l0` may be of any Python program of this
machine. So the process of the tests, before it starts anything, goes into a mount namespace with an
empty /dev/shm; what it starts sees the same one, and nobody else does. That needs root. Without,
`OWN` is False and only names that carry a process id can be told apart: torch's.

Called by conftest.py.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

SHM = Path("/dev/shm")
CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_REC, MS_SLAVE = 0x2, 0x4, 0x4000, 0x80000
_OF_TORCH = re.compile(r"torch_(\d+)_")


def _separate() -> bool:
    """Give this process, and those that it will start, an empty /dev/shm; tell whether it went."""
    if len(os.listdir("/proc/self/task")) > 1:  # the others would stay behind
        return False
    room = os.statvfs(SHM)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        return False
    # What the machine mounts later is seen here; what is mounted here, only here.
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None):
        return False
    flags, size = ctypes.c_ulong(MS_NOSUID | MS_NODEV), room.f_blocks * room.f_frsize
    options = f"mode=1777,size={size}".encode()
    return not libc.mount(b"realnet-tests", bytes(SHM), b"tmpfs", flags, options)


def names() -> set[str]:
    """Return what is in /dev/shm and can only be of these tests."""
    return {name for name in os.listdir(SHM) if OWN or _of_a_child(name)}


def _of_a_child(name: str) -> bool:
    """Tell whether a name carries the id of a process that has this one among its parents."""
    found = _OF_TORCH.match(name)
    pid = int(found[1]) if found else 0
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


OWN = _separate()
