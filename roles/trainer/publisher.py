"""Hands a version to the parameter server: open a slot, write the bytes, have them checked.

A parameter server that dies meanwhile is waited for and asked again; what it refuses is written
again from the start. Publishing is not lost: `publish` returns when the version is announced. A
server on another host is sent the bytes. The ranks of a trainer each write their slices
(`SlotWriter.write_part`), and their leader has them checked (`publish_parts`).

Knows nothing of models: it gets arrays. Called by the trainer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from realnet.errors import AskError, RealnetError, Refused
from realnet.message import Request
from realnet.roles.messages import (
    Canary,
    CommitPart,
    Committed,
    CommitVersion,
    Location,
    Manifest,
    OpenSlot,
    SlotOpened,
    Version,
)
from realnet.roles.weights import ArenaSlots, fill, layout
from realnet.roles.weights.digests import summed_up
from realnet.roles.weights.layout import Array
from realnet.roles.weights.slices import fill_part
from realnet.roles.weights.sources import this_host
from realnet.roles.weights.upload import packed


class Elsewhere(RealnetError):
    """A rank does not share memory with the parameter server."""


Weights = Sequence[tuple[str, Array, str]]
_DEADLINE_S = 120.0
_PAUSE_S = 0.5
_REFUSALS = 5
_UNDER_WAY = 4  # records of an upload


class Surroundings(Protocol):
    """What publishing needs of its actor."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...


class Publisher:
    """Publishes the versions of one policy."""

    def __init__(
        self,
        actor: Surroundings,
        ask: Callable[..., Awaitable[Any]],
        sleep: Callable[[float], Awaitable[None]],
        weights: Callable[[], Weights],
    ) -> None:
        self._actor = actor
        self._ask = ask
        self._sleep = sleep
        self._weights = weights
        self._slots = SlotWriter()

    async def publish(self, version: Version, canary: Canary | None = None) -> None:
        """Return when the parameter server has announced this version.

        With `canary`, whoever loads it scores the same tokens and compares. Raises RealnetError
        when it is refused again and again, with the last reason.
        """
        await self._again(version, lambda: self._once(version, canary))

    async def publish_parts(
        self,
        version: Version,
        num_bytes: int,
        write: Callable[[SlotOpened], Awaitable[Sequence[Manifest]]],
        canary: Canary | None = None,
    ) -> None:
        """Publish what several ranks write; return when it is announced.

        `write` has every rank write its slices into the slot (`write_part`) and returns what they
        said, by rank; it is called again after a refusal. Raises as `publish`.
        """
        await self._again(version, lambda: self._once_in_parts(version, num_bytes, write, canary))

    async def _again(self, version: Version, once: Callable[[], Awaitable[None]]) -> None:
        for attempt in range(_REFUSALS):
            try:
                return await once()
            except Refused as error:
                last = error
            if attempt + 1 < _REFUSALS:
                async with self._actor.waiting(f"another try to publish {version}: {last}"):
                    await self._sleep(_PAUSE_S)
        raise RealnetError(f"{version} was refused by the parameter server: {last}") from last

    async def _once(self, version: Version, canary: Canary | None) -> None:
        weights: Weights = await self._actor.compute(self._weights, label="read weights")
        plan = layout(version, ((name, dtype, array.shape) for name, array, dtype in weights))
        plan = msgspec.structs.replace(plan, canary=canary)
        opened = await self._patiently(OpenSlot(version, plan.num_bytes), version)
        if opened.host in ("", this_host()):
            manifest = await self._actor.compute(
                self._slots.write, plan, opened.location, weights, label="write version"
            )
        else:
            manifest = await self._upload(plan, opened.location, weights)
        await self._patiently(CommitVersion(manifest, opened.location), version)

    async def _once_in_parts(
        self,
        version: Version,
        num_bytes: int,
        write: Callable[[SlotOpened], Awaitable[Sequence[Manifest]]],
        canary: Canary | None,
    ) -> None:
        opened = await self._patiently(OpenSlot(version, num_bytes), version)
        parts = [msgspec.structs.replace(p, canary=canary) for p in await write(opened)]
        missing: Sequence[int] = range(len(parts))
        while missing:  # again, if a server that died had checked some before
            for writer in missing:
                request = CommitPart(parts[writer], opened.location, len(parts), writer)
                committed: Committed = await self._patiently(request, version)
            missing = committed.missing

    async def _upload(self, plan: Manifest, location: Location, weights: Weights) -> Manifest:
        """Send the bytes to a server on another host, a few records at a time."""
        arrays = [array for _, array, _ in weights]
        manifest: Manifest = await self._actor.compute(
            summed_up, plan, arrays, label="sum up version"
        )
        waiting: list[Awaitable[Any]] = []
        for record in packed(plan, location, arrays):
            waiting.append(self._patiently(record, plan.version))
            if len(waiting) == _UNDER_WAY:
                await asyncio.gather(*waiting)
                waiting = []
        await asyncio.gather(*waiting)
        return manifest

    async def _patiently(self, request: Request[Any], version: Version) -> Any:
        """Ask until there is an answer: whoever died is started again. Refusals go through."""
        while True:
            try:
                return await self._ask(request, deadline_s=_DEADLINE_S)
            except Refused:
                raise
            except AskError:
                async with self._actor.waiting(f"the parameter server, to publish {version}"):
                    await self._sleep(_PAUSE_S)


class SlotWriter:
    """Writes into the slots of an arena, which it maps once."""

    def __init__(self) -> None:
        self._arena: ArenaSlots | None = None

    def write(self, plan: Manifest, location: Location, weights: Weights) -> Manifest:
        """Copy weights into a slot; return the manifest with their digests."""
        with self.arena(location).view(location.slot) as view:
            return fill(plan, view, (array for _, array, _ in weights))

    def write_part(self, mine: Manifest, location: Location, arrays: Sequence[Array]) -> Manifest:
        """Copy a rank's slices (see `slices.part`) into a slot; return them with their digest."""
        with self.arena(location).view(location.slot) as view:
            return fill_part(mine, view, arrays)

    def arena(self, location: Location) -> ArenaSlots:
        """Return the arena of a slot, all its pages at hand."""
        size, arena = location.slot_bytes, self._arena
        if arena is None or (arena.path, arena.size) != (location.path, size):
            self.close()
            num = os.stat(location.path).st_size // size
            arena = self._arena = ArenaSlots(location.path, num, size, populate=True)
        return arena

    def close(self) -> None:
        """Unmap."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None


def write_part(mine: Manifest, location: Location, arrays: Sequence[Array]) -> Manifest:
    """Write a rank's slices once. Whoever does so again and again keeps a `SlotWriter`."""
    slots = SlotWriter()
    try:
        return slots.write_part(mine, location, arrays)
    finally:
        slots.close()
