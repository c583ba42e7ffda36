"""What is still under way when a loop is done: cancelled, named if it does not end, and left.

asyncio itself waits without end, for tasks and for threads, so that a role that swallows its
cancellation would keep the process. Knows nothing of actors. Called by `member.py`, and by `cli.py`
for a run inside one process.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Coroutine, Set
from typing import Any, TypeVar

T = TypeVar("T")
END_S = 1.0  # for what is under way, until the process ends with it


async def end_tasks() -> bool:
    """Cancel what is under way. Tell whether all of it ended in time; what did not is named."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return True
    _, left = await asyncio.wait(tasks, timeout=END_S)
    for task in left:
        print(f"{task.get_name()} did not end in {END_S} s", file=sys.stderr)  # noqa: T201
    return not left


def run_and_leave(story: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """Run this in a loop of its own; return what comes of it, and whether nothing is left.

    If something is, the loop stays open, and the process can only be ended without waiting.
    """
    before = set(threading.enumerate())
    runner, clean = asyncio.Runner(), True
    try:
        result = runner.run(story)
        clean = runner.run(end_tasks()) and _end_threads(before)
    finally:
        if clean:
            runner.close()
    return result, clean


def _end_threads(before: Set[threading.Thread]) -> bool:
    """Wait for threads that work; tell whether all ended in time. Idle ones end with the loop."""
    end_s = time.monotonic() + END_S
    working = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in working:
        thread.join(max(end_s - time.monotonic(), 0.0))
        if thread.is_alive():
            print(f"{thread.name} did not end in {END_S} s", file=sys.stderr)  # noqa: T201
    return not any(t.is_alive() for t in working)
