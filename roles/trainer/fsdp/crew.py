"""The leader's side of a gang: an order to every other rank, and the same move made here.

All ranks make a move together, so the orders of a move leave before the leader begins its own part,
and the next move begins when all have reported. A rank that fails or dies ends the gang, the leader
included: nothing here tries again.

Knows records and threads, not models. Called by the leader's learner, in its compute thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from realnet.roles.trainer.fsdp.records import Order, Report

T = TypeVar("T")
Tell = Callable[[int, Order], "Future[Report]"]  # an order to a rank; called from any thread


class Crew:
    """The ranks of one gang, as its leader reaches them."""

    def __init__(self, ranks: int, tell: Tell) -> None:
        self.ranks = ranks
        self._tell = tell

    def move(self, order: Order | Sequence[Order], mine: Callable[[], T]) -> tuple[T, list[Report]]:
        """Have all ranks make a move, `mine` being the leader's part.

        `order` is one for all, or one for each of the ranks from 1 on. Returns what `mine` gave,
        and the reports of the others by rank.
        """
        orders = [order] * (self.ranks - 1) if isinstance(order, Order) else list(order)
        told = [self._tell(rank, each) for rank, each in enumerate(orders, 1)]
        made = mine()
        return made, [report.result() for report in told]
