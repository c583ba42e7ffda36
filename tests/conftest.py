"""Shared by all tests: nothing may be left behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# The sources are what is tested, also in processes that tests start, unless somebody says
# otherwise (make test-compiled).
os.environ.setdefault("REALNET_COMPILED", "0")


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= set((task / "children").read_text().split())
        except OSError:
            continue
    return found


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def _left_in_memory(before: set[str]) -> set[str]:
    """Names in /dev/shm that came since, stay, and that no process of others holds."""
    for _ in range(10):  # other programs of the machine make and unlink theirs meanwhile
        left = set(os.listdir("/dev/shm")) - before
        if not left:
            return left
        time.sleep(0.1)
    return {name for name in left if not _held_by_others(f"/dev/shm/{name}")}


def _held_by_others(path: str) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if maps.parent.name != str(os.getpid()) and path in maps.read_text():
                return True
        except OSError:
            continue
    return False


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process or more than a handful of descriptors behind."""
    children, fds, shm = _children(), _fds(), set(os.listdir("/dev/shm"))
    yield
    left = _children() - children
    assert not left, f"processes left behind: {left}"
    in_memory = _left_in_memory(shm)
    assert not in_memory, f"shared memory left behind: {in_memory}"
    if _fds() > fds + 12:
        gc.collect()  # actors that a test killed on paper, and what they had open
    # Importing torch or opening an event loop keeps a few; a leak of sockets keeps many.
    assert _fds() <= fds + 12, f"descriptors left open: {_fds()} after, {fds} before"
