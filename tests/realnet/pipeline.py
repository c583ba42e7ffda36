"""A small network that is not RL: source -> worker pool -> sink, an ask and a state wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

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
    doc,
    handles,
)


class Number(Message):
    value: int
    payload: npt.NDArray[np.int32]


class Square(Message):
    value: int
    square: int
    worker: int


class Factor(Message):
    factor: int


class Scale(Request[Factor]):
    safe = True
    value: int


class Count(StreamRequest[Factor]):
    upto: int


class Level(Message):
    level: int


class SourceConfig(Config):
    num: Annotated[int, doc("how many numbers to send", ge=0)] = 20
    per_s: Annotated[int, doc("how many a second; 0: as fast as they are taken", ge=0)] = 0
    big: bool = False


class Source(Actor[SourceConfig]):
    numbers = Outlet(Number)
    level = StateIn(Level)

    async def start(self) -> None:
        self.sent = 0
        self.aside: list[tuple[int, str]] = []
        self.numbers.on_set_aside(lambda body, why: self.aside.append((body.value, why)))

    async def run(self) -> None:
        size = 100_000 if self.config.big else 3
        for i in range(self.config.num):
            await self.numbers.send(Number(i, np.full(size, i, np.int32)), key=str(i))
            self.sent += 1
            if self.config.per_s and self.sent % 20 == 0:
                await self.clock.sleep(20 / self.config.per_s)


class WorkerConfig(Config):
    window: int = 4


class Worker(Actor[WorkerConfig]):
    numbers = Inlet(Number, window="window")
    squares = Outlet(Square)
    helper = Ask(Scale, Count)

    async def start(self) -> None:
        self.handled: list[int] = []
        self.hold = False
        self.holding = 0

    @numbers.handler
    async def on_number(self, item: Delivery[Number]) -> None:
        self.holding += 1
        while self.hold:
            await self.clock.sleep(0.01)
        self.holding -= 1
        if item.body.value == 13:
            item.set_aside("thirteen")
            return
        assert int(item.body.payload[-1]) == item.body.value
        factor = await self.helper(Scale(item.body.value))
        self.handled.append(item.body.value)
        square = Square(item.body.value, item.body.value**2 * factor.factor, self.address.index)
        await self.squares.send(square, key=item.key, caused_by=item)


class HelperConfig(Config):
    factor: int = 1


class Helper(Actor[HelperConfig]):
    level = StateOut(Level)

    async def start(self) -> None:
        self.level.set(Level(7))
        self.cancelled = False

    @handles
    async def scale(self, request: Scale) -> Factor:
        if request.value == -1:
            raise ValueError("minus one")
        if request.value == -2:
            try:
                await self.clock.sleep(60)
            finally:
                self.cancelled = True
        return Factor(self.config.factor)

    @handles
    async def count(self, request: Count) -> AsyncIterator[Factor]:
        for i in range(request.upto):
            yield Factor(i)


class SinkConfig(Config):
    fail_at: int = 0


class Sink(Actor[SinkConfig]):
    squares = Inlet(Square, window=64)

    async def start(self) -> None:
        self.got: dict[int, Square] = {}
        self.times = 0

    @squares.handler
    async def on_square(self, item: Delivery[Square]) -> None:
        self.times += 1
        if self.config.fail_at and self.times == self.config.fail_at:
            raise RuntimeError("the sink is full")
        if self.times == 100:
            self.event("100 squares")
        elif self.times % 500 == 0:
            self.event(f"{self.times} squares since the start")
        if len(self.got) < 10_000:
            self.got.setdefault(item.body.value, item.body)
        await self.compute(lambda: None)


TOPOLOGY = """
[roles.source]
kind = "pipeline.py:Source"
num  = {num}
[roles.worker]
kind  = "pipeline.py:Worker"
count = {workers}
restart = "50 per 1min"
[roles.helper]
kind = "pipeline.py:Helper"
[roles.sink]
kind = "pipeline.py:Sink"
restart = "50 per 1min"
[wires]
work  = "source -> worker -> sink"
help  = "worker -> helper"
level = "helper -> source"
"""
