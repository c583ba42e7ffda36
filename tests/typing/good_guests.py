"""A guest as a type checker sees it: the reply by the request, the state by its record."""

from __future__ import annotations

from typing import assert_type

import realnet
from realnet import Actor, Ask, Config, Message, Request, StateIn, StreamRequest


class Factor(Message):
    factor: int


class Scale(Request[Factor]):
    value: int


class Count(StreamRequest[Factor]):
    upto: int


class Level(Message):
    level: int


class Mine(Actor[Config]):
    helper = Ask(Scale)
    level = StateIn(Level)


async def visit() -> None:
    async with realnet.Node("runs/demo", name="notebook") as node:
        assert_type(node, realnet.Node)
        assert_type(await node.ask("helper", Scale(3)), Factor)
        async for item in node.stream("helper", Count(3)):
            assert_type(item, Factor)
        level = await node.follow("helper", Level)
        assert_type(await level.get(), Level)
        mine = await node.actor(Mine, wires={"helper": "helper", "level": "helper"})
        assert_type(mine, Mine)
