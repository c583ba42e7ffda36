"""Shared by all tests: nothing may be left behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import own_shm
import pytest
from learner_gangs import Gangs

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
    """Names in /dev/shm that came since and stay, although what was started has ended."""
    left = own_shm.names() - before
    end_s = time.monotonic() + 2.0
    while left and time.monotonic() < end_s:  # a resource tracker unlinks when its parent is gone
        time.sleep(0.02)
        left &= own_shm.names()
    return left


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process or more than a handful of descriptors behind."""
    children, fds, shm = _children(), _fds(), own_shm.names()
    yield
    left = _children() - children
    assert not left, f"processes left behind: {left}"
    in_memory = _left_in_memory(shm)
    assert not in_memory, f"shared memory left behind: {in_memory}"
    if _fds() > fds + 12:
        gc.collect()  # actors that a test killed on paper, and what they had open
    # Importing torch or opening an event loop keeps a few; a leak of sockets keeps many.
    assert _fds() <= fds + 12, f"descriptors left open: {_fds()} after, {fds} before"


@pytest.fixture(scope="module")
def play() -> Iterator[Callable[..., Any]]:
    """Play scenarios in gangs of learners: `play("train", ranks=2, ...)`."""
    gangs = Gangs()
    yield gangs.play
    gangs.close()
