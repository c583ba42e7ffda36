"""A simulated process: callbacks that are frozen, thawed and ended together.

A callback belongs to the process in whose context it was scheduled; what no process scheduled
belongs to the test itself. Knows nothing of loops or time. Used by `loop.py`, which runs them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque


class Process:
    """Callbacks that are frozen, thawed and ended together."""

    __slots__ = ("context", "dead", "frozen", "name", "queued", "ready")

    def __init__(self, name: str):
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.queued = False  # in the loop's list of those with something to run
        self.frozen = False
        self.dead = False
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar(
    "realnet_process", default=None
)
