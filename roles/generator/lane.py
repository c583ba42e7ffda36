"""A lane: one engine, and how many use it. A lane with users keeps its version.

Knows nothing of actors, wires or weights. Called by the generator, all in its loop.
"""

from __future__ import annotations

import asyncio

from realnet.roles.generator.engine import Engine


class Users:
    """How many use something."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def hold(self) -> None:
        """Count one more."""
        self._count += 1
        self._idle.clear()

    def release(self) -> None:
        """Count one less."""
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until there are none."""
        await self._idle.wait()


class Lane(Users):
    """An engine and its users."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
