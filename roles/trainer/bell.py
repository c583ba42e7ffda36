"""A bell that wakes everybody who waits, each time it rings. Called by the trainer."""

from __future__ import annotations

import asyncio


class Bell:
    """Who waits looks again at what it waits for after each ring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()
