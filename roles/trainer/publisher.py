"""Hands a version to the parameter server: open a slot, write the bytes, have them checked.

A parameter server that dies meanwhile is waited for and asked again; what it refuses is written
again from the start. Publishing is not lost: `publish` returns when the version is announced. A
server on another host is sent the bytes. The ranks of a trainer each write their slices
(`SlotWriter.write_part`), and their leader has them checked. A version that is laid over a base
has the server asked for that first, and it is written if it is not there.

Knows nothing of models: it gets arrays. Called by the trainer's publication.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import msgspec

from realnet.errors import AskError, RealnetError, Refused, ensure
from realnet.message import Request
from realnet.roles.messages import (
    Canary,
    CommitPart,
    Committed,
    CommitVersion,
    Location,
    Manifest,
    OpenSlot,
    Over,
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
Lend = Callable[[SlotOpened, Manifest], Awaitable[None]]
_DEADLINE_S = 120.0
_PAUSE_S = 0.5
_REFUSALS = 5
_UNDER_WAY = 4  # records of an upload


class Whole(NamedTuple):
    """This process has all the weights: (name, array, dtype)."""

    weights: Callable[[], Weights]


class Parts(NamedTuple):
    """Several ranks have them: `write` has every rank write its slices into the slot
    (`SlotWriter.write_part`) and returns what they said, by rank. It is called again after a
    refusal."""

    num_bytes: int
    write: Callable[[SlotOpened], Awaitable[Sequence[Manifest]]]


class Base(NamedTuple):
    """What a version is laid over: its name if it is written, and what the trainer knows it by.

    `over` tells what a version says of the base that is held.
    """

    version: Version
    key: str
    num_bytes: int
    what: Whole | Parts
    over: Callable[[Manifest], Over]


class _Said(NamedTuple):
    """What a manifest says beside the tensors."""

    canary: Canary | None = None
    over: Over | None = None
    key: str = ""

    def on(self, manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, **self._asdict())


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
    ) -> None:
        self._actor = actor
        self._ask = ask
        self._sleep = sleep
        self._slots = SlotWriter()

    async def publish(
        self,
        version: Version,
        what: Whole | Parts,
        canary: Canary | None = None,
        base: Base | None = None,
        lend: Lend | None = None,
    ) -> None:
        """Return when the parameter server has announced this version.

        With `canary`, whoever loads it scores the same tokens and compares. With `base` it is laid
        over that. `lend` may offer what was written elsewhere too, before it is announced. Raises
        RealnetError when it is refused again and again, with the last reason, and what
        `Parts.write` raises.
        """
        for attempt in range(_REFUSALS):
            try:
                over = None if base is None else base.over(await self._have_base(base))
                await self._send(version, what, _Said(canary, over), lend)
                return
            except Refused as error:
                last = error
            if attempt + 1 < _REFUSALS:
                async with self._actor.waiting(f"another try to publish {version}: {last}"):
                    await self._sleep(_PAUSE_S)
        raise RealnetError(f"{version} was refused by the parameter server: {last}") from last

    async def _have_base(self, base: Base) -> Manifest:
        """Write a base unless the server has it; return it as it is held."""
        request = OpenSlot(base.version, base.num_bytes, key=base.key)
        opened: SlotOpened = await self._patiently(request, base.version)
        if opened.held is None:
            await self._fill(base.version, opened, base.what, _Said(key=base.key))
            opened = await self._patiently(request, base.version)
        ensure(opened.held is not None, f"{base.version} was written and is not held")
        assert opened.held is not None
        return opened.held

    async def _send(
        self, version: Version, what: Whole | Parts, said: _Said, lend: Lend | None
    ) -> None:
        if isinstance(what, Whole):
            # Read before a slot is opened: how large it must be, the weights say.
            read: Weights = await self._actor.compute(what.weights, label="read weights")
            num_bytes, what = _planned(version, read).num_bytes, Whole(lambda: read)
        else:
            num_bytes = what.num_bytes
        opened = await self._patiently(OpenSlot(version, num_bytes), version)
        await self._fill(version, opened, what, said, lend)

    async def _fill(
        self,
        version: Version,
        opened: SlotOpened,
        what: Whole | Parts,
        said: _Said,
        lend: Lend | None = None,
    ) -> None:
        """Write into an open slot, and have it checked."""
        if isinstance(what, Parts):
            await self._fill_parts(version, opened, what, said)
            return
        weights: Weights = await self._actor.compute(what.weights, label="read weights")
        plan = said.on(_planned(version, weights))
        if opened.host in ("", this_host()):
            manifest = await self._actor.compute(
                self._slots.write, plan, opened.location, weights, label="write version"
            )
        else:
            manifest = await self._upload(plan, opened.location, weights)
        if lend is not None:
            await lend(opened, manifest)
        await self._patiently(CommitVersion(manifest, opened.location), version)

    async def _fill_parts(
        self, version: Version, opened: SlotOpened, what: Parts, said: _Said
    ) -> None:
        parts = [said.on(part) for part in await what.write(opened)]
        missing: Sequence[int] = range(len(parts))
        while missing:  # again, if a server that died had checked some before
            for writer in missing:
                commit = CommitPart(parts[writer], opened.location, len(parts), writer)
                committed: Committed = await self._patiently(commit, version)
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


def _planned(version: Version, weights: Weights) -> Manifest:
    return layout(version, ((name, dtype, array.shape) for name, array, dtype in weights))


class SlotWriter:
    """Writes into the slots of an arena, which it maps once."""

    def __init__(self) -> None:
        self._arena: ArenaSlots | None = None

    def write(self, plan: Manifest, location: Location, weights: Weights) -> Manifest:
        """Copy weights into a slot; return the manifest with their digests."""
        with self.arena(location).view(location.slot) as view:
            return fill(plan, view, (array for _, array, _ in weights))

    def write_part(self, mine: Manifest, location: Location, arrays: Iterable[Array]) -> Manifest:
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
