"""Processes of this host that are not ours: seen to end, never waited for, never killed.

Knows nothing of runs. Used by `desk.py` to hear of a guest's end at once; for a guest elsewhere,
or where there are no pidfds, silence has to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from realnet import host


def place() -> str:
    """Return what two processes have in common if a pid means the same to both; "" if unknown."""
    return host.namespace("pid") if host.has_pidfd() else ""


def when_gone(pid: int, its_place: str, gone: Callable[[], None]) -> Callable[[], None]:
    """Call `gone` in this loop when a process here ends. Returns what calls that off."""
    if not its_place or its_place != place() or pid in (0, os.getpid()):
        return lambda: None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it is gone already, or not ours to watch: its silence tells
        return lambda: None
    loop = asyncio.get_running_loop()
    watching = True

    def stop() -> None:
        nonlocal watching
        if watching:
            watching = False
            with contextlib.suppress(RuntimeError):
                loop.remove_reader(descriptor)
            os.close(descriptor)

    def seen() -> None:
        stop()
        gone()

    loop.add_reader(descriptor, seen)
    return stop
