"""What a type checker flags in a guest."""

from __future__ import annotations

import realnet
from realnet import Message, Request


class Factor(Message):
    factor: int


class Scale(Request[Factor]):
    value: int


async def visit(node: realnet.Node) -> None:
    reply = await node.ask("helper", Scale(3))
    text: str = reply  # E: mypy[assignment] pyright[reportAssignmentType]
    await node.ask("helper", Factor(3))  # E: mypy[arg-type] pyright[reportArgumentType]
    _ = reply.faktor  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
    await node.actor(Factor, wires={})  # E: mypy[type-var] pyright[reportArgumentType]
    print(text)
