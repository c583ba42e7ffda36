"""A lane: one engine, and how many use it. A lane with users keeps its version.

Knows nothing of actors, wires or weights. Called by the generator, all in its loop.
"""

from __future__ import annotations

import asyncio

from realnet.roles.generator.engine import Engine


class Lane:
    """An engine and its users."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def hold(self) -> Lane:
        """Count one more user: a lane with users keeps its weights."""
        self._users += 1
        self._idle.clear()
        return self

    def release(self) -> None:
        """Count one user less."""
        self._users -= 1
        if not self._users:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody uses this lane."""
        await self._idle.wait()
