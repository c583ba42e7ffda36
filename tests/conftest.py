"""Shared by all tests: nothing may be left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process or more than a handful of descriptors behind."""
    children, fds, shm = _children(), _fds(), set(os.listdir("/dev/shm"))
    yield
    left = _children() - children
    assert not left, f"processes left behind: {left}"
    assert set(os.listdir("/dev/shm")) <= shm, "shared memory left behind"
    # Importing torch or opening an event loop keeps a few; a leak of sockets keeps many.
    assert _fds() <= fds + 12, f"descriptors left open: {_fds()} after, {fds} before"
