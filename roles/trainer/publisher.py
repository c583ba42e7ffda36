"""Hands a version to the parameter server: open a slot, write the bytes, have them checked.

A parameter server that dies meanwhile is waited for and asked again; what it refuses is written
again from the start. Publishing is not lost: `publish` returns when the version is announced.

Knows nothing of models: it gets arrays. Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from realnet.errors import AskError, RealnetError, Refused
from realnet.message import Request
from realnet.roles.messages import CommitVersion, Location, Manifest, OpenSlot, Version
from realnet.roles.weights import ArenaSlots, fill, layout
from realnet.roles.weights.layout import Array

Weights = Sequence[tuple[str, Array, str]]
_DEADLINE_S = 120.0
_PAUSE_S = 0.5
_REFUSALS = 5


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

    async def publish(self, version: Version) -> None:
        """Return when the parameter server has announced this version.

        Raises RealnetError when it refuses again and again, with its last reason.
        """
        for attempt in range(_REFUSALS):
            try:
                return await self._once(version)
            except Refused as error:
                last = error
            if attempt + 1 < _REFUSALS:
                async with self._actor.waiting(f"another try to publish {version}: {last}"):
                    await self._sleep(_PAUSE_S)
        raise RealnetError(f"{version} was refused by the parameter server: {last}") from last

    async def _once(self, version: Version) -> None:
        weights: Weights = await self._actor.compute(self._weights, label="read weights")
        plan = layout(version, ((name, dtype, array.shape) for name, array, dtype in weights))
        opened = await self._patiently(OpenSlot(version, plan.num_bytes), version)
        manifest = await self._actor.compute(
            write, plan, opened.location, weights, label="write version"
        )
        await self._patiently(CommitVersion(manifest, opened.location), version)

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


def write(plan: Manifest, location: Location, weights: Weights) -> Manifest:
    """Copy weights into a slot; return the manifest with their digest."""
    arena = ArenaSlots(location.path, location.slot + 1, location.slot_bytes)
    with arena, arena.view(location.slot) as view:
        digest = fill(plan, view, (array for _, array, _ in weights))
    return msgspec.structs.replace(plan, digest=digest)
