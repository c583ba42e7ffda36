"""What would be disks and fate in a real run, for the roles of the simulated scenarios.

It outlives every process: what a source knows to be done, what the sink made durable, and what is
planned to go wrong inside a handler. Used by `workload.py`, set by `scenario.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from realnet.actor import Actor
from realnet.testing.history import History

ORACLE: contextvars.ContextVar[Oracle] = contextvars.ContextVar("realnet_oracle")


class Oracle:
    """What outlives processes, and what is planned to go wrong inside them."""

    def __init__(self, history: History, offered: dict[int, list[str]], poison: set[str]):
        self.history = history
        self.offered = offered  # by source index
        self.poison = poison
        self.sticky: set[str] = set()  # whose first handler will not move until `release`
        self.release = asyncio.Event()
        self.settled: set[str] = set()  # roots that their source knows to be done or set aside
        self.durable: set[str] = set()
        self.crashes: dict[str, int] = {}  # role -> how many of its next handlers raise
        self.level = 0

    def note(self, what: str, actor: Actor[Any], key: str = "") -> None:
        """Something happened in an actor."""
        self.history.note(what, actor.address.full, key)

    def complete(self) -> bool:
        """Tell whether every source knows that all it offered is done."""
        return all(key in self.settled for keys in self.offered.values() for key in keys)

    def maybe_crash(self, actor: Actor[Any], where: str = "") -> None:
        """Raise in this handler (or `where`), if that is planned."""
        role = actor.address.role + where
        if self.crashes.get(role, 0) > 0:
            self.crashes[role] -= 1
            self.note("crash", actor)
            raise RuntimeError(f"planned crash of {actor.address}")
