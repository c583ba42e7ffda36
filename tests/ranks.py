"""A role of several processes: ranks that add up what each of them holds."""

from __future__ import annotations

import os

from realnet import Actor, Ask, Config, Message, Request, handles


class Part(Message):
    value: int
    incarnation: int


class Give(Request[Part]):
    rank: int


class Sum(Message):
    total: int


class Total(Request[Sum]):
    pass


class Trainer(Actor[Config]):
    async def run(self) -> None:
        self.event(
            f"{self.address.full} is rank {self.rank} of {self.num_ranks}, pid {os.getpid()}, "
            f"env {os.environ.get('RANK')}/{os.environ.get('WORLD_SIZE')} "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        )

    @handles
    async def give(self, request: Give) -> Part:
        return Part(10**self.rank, self.address.incarnation)

    @handles
    async def total(self, request: Total) -> Sum:
        parts = [await self.gang.ask(r, Give(r)) for r in range(1, self.num_ranks)]
        assert {p.incarnation for p in parts} == {self.address.incarnation}
        return Sum(1 + sum(p.value for p in parts))


class Asker(Actor[Config]):
    trainer = Ask(Total)


TOPOLOGY = """
[roles.trainer]
kind = "ranks.py:Trainer"
ranks = 3
restart = "5 per 1min"
[roles.asker]
kind = "ranks.py:Asker"
[wires]
ask = "asker -> trainer"
"""
