"""Which versions are announced: waits for one, finds where it is held, or says that it is gone.

Knows announcements; knows nothing of engines. Called by the generator, in its loop.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from realnet.errors import RealnetError
from realnet.roles.messages import Announced, Held, Version


class Surroundings(Protocol):
    """What waiting needs of its actor."""

    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...


class Known:
    """The newest announcement."""

    def __init__(self, actor: Surroundings) -> None:
        self._actor = actor
        self._news = asyncio.Condition()
        self.announced: Announced | None = None

    async def tell(self, announced: Announced) -> None:
        """This is announced now."""
        async with self._news:
            self.announced = announced
            self._news.notify_all()

    @property
    def newest(self) -> Version | None:
        """The newest version."""
        newest = self.announced.newest if self.announced is not None else None
        return newest.manifest.version if newest is not None else None

    async def find(self, pinned: Version) -> Held:
        """Return where a version is held; one that is newer than the newest known is waited for.

        Raises RealnetError when it is held no longer.
        """
        while True:
            announced = self.announced
            if announced is not None:
                known = [*announced.older, *([announced.newest] if announced.newest else [])]
                for held in known:
                    if held.manifest.version == pinned:
                        return held
                if self.newest is not None and covers(self.newest, pinned):
                    versions = ", ".join(str(held.manifest.version) for held in known)
                    raise RealnetError(
                        f"{pinned} is pinned, but no longer held; held are: {versions}. Ask again "
                        f"with one of these, or let the parameter server keep more"
                    )
            async with self._actor.waiting(f"{pinned} to be announced"), self._news:
                if announced is self.announced:
                    await self._news.wait()


def covers(have: Version | None, wanted: Version) -> bool:
    """Tell whether a version is this one or newer; a later branch is newer than any number."""
    return have is not None and (have.branch, have.number) >= (wanted.branch, wanted.number)
