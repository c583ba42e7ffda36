"""A gang as one of its ranks sees it: who it is, and the private port to the others.

Wires end at the leader (rank 0); among themselves ranks ask with any request that their class
handles. What large arrays they exchange is the business of their own collectives: every process
finds RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment.

Knows nothing of processes. Made by `cell.py`; role authors use it as `self.gang`.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from realnet.address import Address
from realnet.errors import ConfigError
from realnet.live import LiveAsk
from realnet.message import Message, Request
from realnet.waits import Waits

R = TypeVar("R", bound=Message)
PORT = "@gang"


class Gang:
    """The ranks of one member; of a role without ranks there is one."""

    def __init__(self, address: Address, num_ranks: int, port: LiveAsk | None, waits: Waits):
        self._waits = waits
        self.rank = address.rank
        self.num_ranks = num_ranks
        self._address = address
        self._port = port
        self._all_up = asyncio.Event()
        self.heard()

    @property
    def is_up(self) -> bool:
        """Tell whether all the others can be asked."""
        return self._port is None or len(self._port.peers) == self.num_ranks - 1

    def heard(self) -> None:
        """A rank came up; `cell.py` says so."""
        if self.is_up:
            self._all_up.set()

    async def up(self) -> None:
        """Wait until all the others can be asked, in `run`: they are up when all have started."""
        if self._port is None or self.is_up:
            return
        others = [self._full(rank) for rank in range(self.num_ranks) if rank != self.rank]
        missing = tuple(o.partition("~")[0] for o in others if o not in self._port.peers)
        with self._waits.on(str(self._address), "the other ranks of its gang", missing):
            await self._all_up.wait()

    async def ask(self, rank: int, request: Request[R], *, deadline_s: float = 30.0) -> R:
        """Ask one other rank, which answers by `@handles`; once the gang is up (from `run` on).

        Raises what any ask raises, and ConfigError for a rank that is not there.
        """
        return await self._to_others(rank)(request, deadline_s=deadline_s, to=self._full(rank))

    def tell(self, rank: int, record: Message) -> None:
        """Send one other rank a record that wants no reply."""
        self._to_others(rank).tell(record, to=self._full(rank))

    def _to_others(self, rank: int) -> LiveAsk:
        if self._port is None or rank == self.rank or not 0 <= rank < self.num_ranks:
            others = [str(r) for r in range(self.num_ranks) if r != self.rank]
            raise ConfigError(
                f"{self._address} is rank {self.rank} of {self.num_ranks} and cannot ask rank "
                f"{rank}: there are {', '.join(others) or 'no others'}"
            )
        return self._port

    def _full(self, rank: int) -> str:
        mine = self._address
        return Address(mine.role, mine.index, mine.incarnation, rank).full
