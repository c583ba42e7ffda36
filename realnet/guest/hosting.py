"""The actors that a guest hosts: made, started, shown to the run, and taken out again.

Knows nothing of how the guest came in, nor what its actors do. Called by `node.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from realnet.actor import Actor
from realnet.address import parse_address
from realnet.cell import Cell
from realnet.config import Config
from realnet.errors import RealnetError
from realnet.guest.records import Given, Ready, Remove
from realnet.message import Request
from realnet.node import Node as Process

A = TypeVar("A", bound=Actor[Any])
Desk = Callable[[Request[Given]], Awaitable[Given]]


class Hosting:
    """The actors of one guest, oldest first. `desk` asks the head, until it is `over`."""

    def __init__(self, process: Process, desk: Desk, over: Callable[[], bool]):
        self._process, self._desk, self._over = process, desk, over
        self._cells: dict[str, Cell] = {}

    @property
    def cells(self) -> list[Cell]:
        """The cells of all that are there."""
        return list(self._cells.values())

    def has(self, full: str) -> bool:
        """Tell whether an actor of this address is hosted here."""
        return full in self._cells

    async def host(
        self, cls: type[A], full: str, config: Config, shared: dict[Any, Any], policy: str
    ) -> A:
        """Make an actor that the head has given an address, and start it. Raises what that does."""
        slot = self._process.slot
        try:
            cell = self._process.add(cls, parse_address(full), config, shared, policy)
        except BaseException:
            await self._desk(Remove(slot, full, "it could not be made"))
            raise
        self._cells[full] = cell
        try:
            await cell.actor.start()
            await self._desk(Ready(slot, full))
        except BaseException:
            await self.take_out(full, graceful=False, why="it did not start")
            raise
        self._process.local_up([full])
        cell.begin_run()
        made = cell.actor
        assert isinstance(made, cls)
        return made

    async def take_out(self, full: str, *, graceful: bool, why: str = "") -> None:
        """End an actor, and tell the head that it is gone."""
        cell = self._cells.pop(full, None)
        if cell is None:
            return
        try:
            await cell.end(graceful)
        finally:
            self._process.remove(cell)
            if not self._over():
                with contextlib.suppress(RealnetError):
                    await self._desk(Remove(self._process.slot, full, why))

    async def take_all(self, *, graceful: bool) -> None:
        """Take out all, the newest first."""
        for full in list(reversed(self._cells)):
            await self.take_out(full, graceful=graceful)

    async def stop_role(self, role: str) -> None:
        """Drain and take out what is hosted of a role."""
        for full in [f for f, cell in self._cells.items() if cell.address.role == role]:
            await self.take_out(full, graceful=True)
