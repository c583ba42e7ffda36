"""What a role may write, and what a type checker infers from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

import numpy as np
import numpy.typing as npt

from realnet import (
    Actor,
    Ask,
    Config,
    Delivery,
    Inlet,
    Message,
    Outlet,
    Request,
    StateIn,
    StateOut,
    StreamRequest,
    handles,
)


class Thing(Message):
    number: int
    ids: npt.NDArray[np.int32]
    note: str = ""


class Level(Message):
    level: float


class Scale(Request[Level]):
    by: float


class Count(StreamRequest[Thing]):
    upto: int


class Settings(Config):
    size: int = 3


class Role(Actor[Settings]):
    takes = Inlet(Thing)
    gives = Outlet(Thing)
    asks = Ask(Scale, Count)
    follows = StateIn(Level)
    shows = StateOut(Level)

    async def run(self) -> None:
        assert_type(self.config.size, int)
        reply = await self.asks(Scale(0.5), deadline_s=1.0)
        assert_type(reply, Level)
        assert_type(reply.level, float)
        async for item in self.asks.stream(Count(3)):
            assert_type(item, Thing)
        assert_type(await self.follows.get(), Level)
        self.shows.set(Level(1.0))
        await self.gives.send(Thing(1, np.arange(3, dtype=np.int32)), key="1")

    @takes.handler
    async def on_thing(self, item: Delivery[Thing]) -> None:
        assert_type(item.body, Thing)
        assert_type(item.body.number, int)

    @handles
    async def scale(self, request: Scale) -> Level:
        return Level(request.by)

    @handles
    async def count(self, request: Count) -> AsyncIterator[Thing]:
        yield Thing(request.upto, np.arange(3, dtype=np.int32))
