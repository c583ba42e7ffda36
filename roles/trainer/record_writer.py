"""Writes the trainer's records into its journal; a full disk is waited out, not failed at.

Knows how a record is packed. Knows nothing of what records mean or change. Called by `store.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from realnet.message import Message
from realnet.roles.journal import Journal, JournalFull
from realnet.roles.trainer import records


class RecordWriter:
    """One journal as its owner writes it. `full` waits for space; without it JournalFull passes."""

    def __init__(
        self, journal: Journal, full: Callable[[JournalFull], Awaitable[None]] | None
    ) -> None:
        self._journal = journal
        self._full = full

    def queue(self, record: Message) -> None:
        """Append a record, durable with whatever is written next."""
        self._journal.queue([records.pack(record)])

    async def write(self, news: Sequence[Message]) -> None:
        """Append these in order; return when they, and all before them, are durable."""
        try:
            await self._journal.append_all([records.pack(record) for record in news])
        except JournalFull as error:
            await self._wait_for_space(error)

    async def sync(self) -> None:
        """Return when everything appended so far is durable."""
        try:
            await self._journal.sync()
        except JournalFull as error:
            await self._wait_for_space(error)

    async def _wait_for_space(self, error: JournalFull) -> None:
        """Try until there is room: what is queued keeps its place, nothing is acknowledged."""
        while True:
            if self._full is None:
                raise error
            await self._full(error)
            try:
                return await self._journal.sync()
            except JournalFull as again:
                error = again
