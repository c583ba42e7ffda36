"""What a type checker must flag; the comment names what it says."""

from __future__ import annotations

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
)


class Thing(Message):
    number: int
    note: str = ""


class Level(Message):
    level: float


class Scale(Request[Level]):
    by: float


class Count(StreamRequest[Thing]):
    upto: int


class Role(Actor[Config]):
    takes = Inlet(Thing)
    gives = Outlet(Thing)
    asks = Ask(Scale, Count)
    follows = StateIn(Level)
    shows = StateOut(Level)

    async def run(self) -> None:
        Thing("one")  # E: mypy[arg-type] pyright[reportArgumentType]
        Thing(1, "", 3)  # E: mypy[call-arg] pyright[reportCallIssue]
        Thing(1).number = 2  # E: pyright[reportAttributeAccessIssue]
        reply = await self.asks(Scale(0.5))
        text: str = reply.level  # E: mypy[assignment] pyright[reportAssignmentType]
        _ = reply.weight  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
        await self.asks(Thing(1))  # E: mypy[arg-type] pyright[reportArgumentType]
        await self.asks(Count(1))  # E: mypy[arg-type] pyright[reportArgumentType]
        self.asks.stream(Scale(0.5))  # E: mypy[arg-type] pyright[reportArgumentType]
        await self.gives.send(Level(1.0))  # E: mypy[arg-type] pyright[reportArgumentType]
        self.shows.set(Thing(1))  # E: mypy[arg-type] pyright[reportArgumentType]
        level: Thing = await self.follows.get()  # E: mypy[assignment] pyright[reportAssignmentType]
        self.takes = text, level  # E: mypy[assignment]

    @takes.handler
    async def on_thing(self, item: Delivery[Thing]) -> None:
        _ = item.body.level  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
