"""Answers that one version must write, all of them, while newer versions come.

    the engine of the newest versions   as long as it has the pinned version
    then the second engine              the rest of the answer; it has one version at a time, and is
                                        started when it is needed first
    or, without a second engine         the newest version waits for the answers that are under way,
                                        and what is pinned to another version is refused

No engine is paused for them, and every token is of the pinned version: a delta says which version
wrote it, and what another one wrote is not handed on.

Knows engines and announcements; knows nothing of weights. Called by the generator, in its loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol

from realnet.errors import RealnetError
from realnet.roles.generator.engine import Engine, SwapUndone
from realnet.roles.generator.known import Known
from realnet.roles.generator.lane import Lane, Users
from realnet.roles.generator.row import continued
from realnet.roles.messages import Delta, Generate, Held, Version
from realnet.roles.weights import WeightsDamaged, WeightsGone


class Surroundings(Protocol):
    """What pinning needs of its generator."""

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]: ...
    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...

    async def make_engine(self) -> Engine: ...
    async def load(self, engine: Engine, held: Held) -> None: ...
    async def reached(self, version: Version) -> None: ...


class Pinning:
    """Pinned answers of one generator, whose engine of the newest versions is `main`."""

    def __init__(self, actor: Surroundings, known: Known, main: Engine, *, second: bool) -> None:
        self._actor = actor
        self._known = known
        self._main = main
        self._keeps_second = second
        self._turn = asyncio.Lock()
        self._guests = Users()  # of the main engine
        self._next: Version | None = None  # that waits for them, where there is no second engine
        self.second: Lane | None = None

    async def write(self, request: Generate) -> AsyncGenerator[Delta, None]:
        """Have one version write all of an answer. Raises RealnetError when it cannot be had."""
        pinned = request.pinned
        assert pinned is not None
        await self._known.find(pinned)  # waited for, or refused
        if self._known.newest == pinned:
            await self._actor.reached(pinned)
        written: list[Delta] = []
        if self._main.version == pinned and self._next is None:
            async with aclosing(self._write_here(request)) as deltas:
                async for delta in deltas:
                    yield delta
                    if delta.finish:
                        return
                    written.append(delta)
        lane = await self._lane(pinned)
        try:
            async with aclosing(lane.engine.stream(continued(request, written))) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            lane.release()

    async def swap(self, version: Version) -> float:
        """Swap a version in that the main engine has staged, when it may be."""
        if self._keeps_second:
            return await self._main.swap()
        self._next = version  # from now on nobody comes who is pinned to the one before
        try:
            async with self._actor.waiting(f"pinned answers, to swap {version} in"):
                await self._guests.idle()
            return await self._main.swap()
        finally:
            self._next = None

    async def close(self) -> None:
        """Let go of the second engine."""
        if self.second is not None:
            await self.second.engine.close()

    async def _write_here(self, request: Generate) -> AsyncGenerator[Delta, None]:
        """Have the main engine write while it has the pinned version."""
        self._guests.hold()
        try:
            async with aclosing(self._main.stream(request)) as deltas:
                async for delta in deltas:
                    if delta.version != request.pinned:
                        return  # the next one was swapped in: its tokens are not wanted
                    yield delta
        finally:
            self._guests.release()

    async def _lane(self, pinned: Version) -> Lane:
        """Return the second engine with this version, held for one user."""
        if not self._keeps_second:
            raise RealnetError(
                f"{pinned} is pinned, and {self._next or self._main.version} writes here: with "
                '[roles.generator].engine.pinned = "live" there is no second engine. Ask again '
                "with that"
            )
        async with self._turn:  # in order, so that a stream of one pin does not starve another
            lane = self.second
            if lane is None:
                lane = self.second = Lane(await self._actor.make_engine())
                self._actor.spawn(lane.engine.run(), name="pinned lane")
            if lane.engine.version != pinned:
                async with self._actor.waiting("the pinned lane to be idle"):
                    await lane.idle()
                held = await self._known.find(pinned)  # where it is now
                try:
                    await self._actor.load(lane.engine, held)
                except (WeightsGone, WeightsDamaged, SwapUndone) as error:
                    raise RealnetError(f"{pinned} is pinned, but cannot be had: {error}") from None
            lane.hold()
            return lane
