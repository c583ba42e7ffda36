"""The workbench of an actor: one thread for what blocks, and when it was busy.

A train step or an engine's step runs here, one at a time, so that the loop goes on to beat. What a
beat has told of a span that is still open starts, for the next one, where that beat was.

Knows nothing of actors or records. Called by `cell.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
MAX_SPANS = 4096


class Workbench:
    """The thread is made when it is first needed. `ended` counts what was done on it."""

    def __init__(self, owner: str, now: Callable[[], float]):
        self.ended = 0
        self._owner, self._now = owner, now
        self._spans_s: deque[tuple[float, float, str]] = deque(maxlen=MAX_SPANS)
        self._since: tuple[float, str] | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, fn: Callable[..., T], *args: Any, label: str) -> T:
        """Do blocking work in the thread."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._owner)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._timed, fn, args, label)

    def _timed(self, fn: Callable[..., T], args: tuple[Any, ...], label: str) -> T:
        start_s = self._now()
        self._since = (start_s, label)
        try:
            return fn(*args)
        finally:
            since_s, _ = self._since or (start_s, label)
            self._since = None
            self.ended += 1
            self._spans_s.append((since_s, self._now(), label))

    @property
    def busy(self) -> bool:
        """Tell whether the thread is at work."""
        return self._since is not None

    def take_spans(self) -> list[tuple[float, float, str]]:
        """Return and forget the spans in which it was busy; an open one is cut at now."""
        spans = []
        while self._spans_s:
            spans.append(self._spans_s.popleft())
        if self._since is not None:
            now_s = self._now()
            since_s, label = self._since
            self._since = (now_s, label)
            spans.append((since_s, now_s, label))
        return spans

    def close(self) -> None:
        """Begin nothing more. What is at work cannot be ended; nobody waits for it."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
