"""Watches as actors hold them: a future for each, a timer where nobody was heard of yet.

Knows nothing of how deaths are found out: the node is told of peers and of its own actors, and
tells this. `watches.py` decides; `cell.py` calls `watch` for its actor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from realnet.address import Address, parse_address
from realnet.waits import Waits
from realnet.watches import Death, Tell, Watches

UNHEARD_S = 3.0


class Watching:
    """The watches of one process."""

    def __init__(self, waits: Waits):
        self.watches = Watches()
        self._waits = waits
        self._futures: dict[int, asyncio.Future[Death]] = {}

    async def watch(self, who: str, address: Address | str) -> Death:
        """Wait for the end of a life. Given up, it leaves nothing behind."""
        life = parse_address(address) if isinstance(address, str) else address
        number, effects = self.watches.watch(life)
        future: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._futures[number] = future
        timer = None
        try:
            self._do(effects)
            if not self.watches.is_known(number):
                loop = asyncio.get_running_loop()
                timer = loop.call_later(UNHEARD_S, self._unheard, number)
            with self._waits.on(who, f"the death of {life}", background=True):
                return await future
        finally:
            if timer is not None:
                timer.cancel()
            self.watches.cancel(number)
            self._futures.pop(number, None)

    def up(self, addresses: Sequence[str]) -> None:
        """These can be reached."""
        for address in addresses:
            self._do(self.watches.up(parse_address(address)))

    def down(self, addresses: Sequence[str], why: str) -> None:
        """These are over."""
        for address in addresses:
            self._do(self.watches.down(parse_address(address), why))

    def _unheard(self, number: int) -> None:
        self._do(self.watches.unheard(number))

    def _do(self, effects: Sequence[Tell]) -> None:
        for effect in effects:
            future = self._futures.get(effect.watch)
            if future is not None and not future.done():
                future.set_result(effect.death)
