"""Asks a ledger's owner for tickets, and knows when all that is outstanding is to be asked for.

A reply that is lost takes tickets with it: after every failure, and in a new life, the next request
is for everything that was issued to this asker and is not finished.

Knows the request, not what becomes of tickets. Used by prompters and the collector.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from realnet import Address, Clock
from realnet.errors import AskError, DeadlineExceeded
from realnet.roles.messages import Slots, TakeSlots

PAUSE_S = 0.5  # until an owner that is away is asked again


class Surroundings(Protocol):
    """What asking needs of its actor."""

    address: Address
    clock: Clock

    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...


class SlotAsker:
    """One asker of one ledger's owner. `anew`: the next request is for all that is outstanding."""

    def __init__(self, actor: Surroundings, ask: Callable[..., Awaitable[Any]], wait_s: float):
        self._actor, self._ask, self._wait_s = actor, ask, wait_s
        self._name = str(actor.address)
        self.anew = True

    async def take(self, policy: str, want: int, standings: int = -1) -> Slots | None:
        """Return the tickets that are the asker's now; None: none came, look around and ask again.

        Waits for room as long as the owner lets it, and a little while when the owner is away.
        """
        request = TakeSlots(policy, want, first=self.anew, standings=standings, asker=self._name)
        try:
            slots: Slots = await self._ask(request, deadline_s=self._wait_s)
        except AskError as error:
            self.anew = True
            if not isinstance(error, DeadlineExceeded):
                async with self._actor.waiting("the trainer, to ask for tickets"):
                    await self._actor.clock.sleep(PAUSE_S)
            return None
        self.anew = False
        return slots
