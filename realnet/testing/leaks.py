"""What a block of a test left behind: tasks, threads, processes, open files.

    async with no_leaks():
        async with running(TOPOLOGY, tmp_path) as run: ...

Asynchronous or not (`with no_leaks():`). What is ending is given a moment. Children are those of
this process alone: grandchildren belong to who started them. For users' tests, and realnet's own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import TracebackType
from typing import Any

from realnet import host
from realnet.errors import RealnetError

MOMENT_S = 2.0
LOOK_S = 0.01
_FILES = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


class Leak(RealnetError):
    """Something was left behind."""


class no_leaks:  # noqa: N801 - it reads as what it says
    """Raise Leak naming what the block left.

    `files`: how many files may stay open: a library that is imported in the block keeps some.
    """

    def __init__(self, *, files: int = 0):
        self._files = files

    def __enter__(self) -> None:
        self._before = _Present()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end_s = time.monotonic() + MOMENT_S
        while kind is None and (left := self._left()):
            if time.monotonic() > end_s:
                raise Leak(_told(left))
            time.sleep(LOOK_S)

    async def __aenter__(self) -> None:
        self._before = _Present()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        end_s = time.monotonic() + MOMENT_S
        while kind is None and (left := self._left()):
            if time.monotonic() > end_s:
                raise Leak(_told(left))
            await asyncio.sleep(LOOK_S)

    def _left(self) -> list[str]:
        now, before = _Present(), self._before
        left = [f"task {task.get_name()}" for task in now.tasks - before.tasks if not task.done()]
        left += [f"thread {thread.name}" for thread in now.threads - before.threads]
        left += [
            f"process {pid}: {host.command_of(pid) or 'ended, and nobody waited for it'}"
            for pid in now.children - before.children
        ]
        files = sorted(now.files.items() - before.files.items())
        if len(now.files) > len(before.files) + self._files:
            left += [f"open file {number}: {name}" for number, name in files]
        return left


class _Present:
    """What there is in this process, at one moment."""

    def __init__(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.tasks: set[asyncio.Task[Any]] = set()
        else:
            self.tasks = asyncio.all_tasks(loop)
        self.threads = set(threading.enumerate())
        self.children = host.children()
        self.files: dict[str, str] = {}
        for number in os.listdir(_FILES):
            try:
                self.files[number] = os.readlink(f"{_FILES}/{number}")
            except OSError:  # it was that of looking, or is none of a kind that has a name
                continue


def _told(left: list[str]) -> str:
    return f"left behind after {MOMENT_S:g} s: {'; '.join(left)}"
