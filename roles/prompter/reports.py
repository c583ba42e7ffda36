"""What a prompter owes the ledger's owner: what became of the tickets that it got slots for.

Knows the request, not where tickets come from. Used by every prompter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from realnet.errors import AskError
from realnet.roles.messages import ReportTickets, Ticket
from realnet.roles.slots import PAUSE_S, Surroundings


class Reports:
    """Tickets that were handed to a driver or set aside, until the owner knows."""

    def __init__(self, actor: Surroundings, ask: Callable[..., Awaitable[Any]], wait_s: float):
        self._actor, self._ask, self._wait_s = actor, ask, wait_s
        self._handed: list[int] = []
        self._aside: list[tuple[int, str]] = []
        self._news = asyncio.Event()

    def handed(self, ticket: int) -> None:
        """A driver has this ticket."""
        self._handed.append(ticket)
        self._news.set()

    def aside(self, ticket: int, reason: str) -> None:
        """This ticket cannot be asked."""
        self._aside.append((ticket, reason))
        self._news.set()

    def set_aside(self, ticket: Ticket, reason: str) -> None:
        """A driver or a rewarder ended this ticket with a reason."""
        self.aside(ticket.key.ticket, reason)

    async def run(self, policy: str) -> None:
        """Tell the owner. What gathers meanwhile goes in the next report."""
        while True:
            await self._news.wait()
            self._news.clear()
            handed, self._handed = self._handed, []
            aside, self._aside = self._aside, []
            report = ReportTickets(policy, tuple(handed), tuple(aside))
            while True:
                try:
                    await self._ask(report, deadline_s=self._wait_s)
                    break
                except AskError:
                    async with self._actor.waiting("the trainer, to report tickets"):
                        await self._actor.clock.sleep(PAUSE_S)
