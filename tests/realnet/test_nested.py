"""A share handler that asks somebody who dies: that is no failure of the handler's own actor."""

from __future__ import annotations

from pathlib import Path

from realnet.testing import running

ROLES = """
import asyncio

from realnet import Actor, Ask, Config, Delivery, Inlet, Message, Outlet, Request, handles


class Work(Message):
    number: int


class Done(Message):
    number: int


class Look(Request[Done]):
    number: int


class Source(Actor[Config]):
    work = Outlet(Work)

    async def run(self) -> None:
        for number in range(20):
            await self.work.send(Work(number), key=str(number))


class Worker(Actor[Config]):
    work = Inlet(Work, window=4)
    helper = Ask(Look)

    async def start(self) -> None:
        self.done = []

    @work.handler
    async def on_work(self, item: Delivery[Work]) -> None:
        reply = await self.helper(Look(item.body.number))
        self.done.append(reply.number)


class Helper(Actor[Config]):
    async def start(self) -> None:
        self.asked = 0
        self.may_go = asyncio.Event()
        if self.address.incarnation > 1:
            self.may_go.set()

    @handles
    async def look(self, request: Look) -> Done:
        self.asked += 1
        await self.may_go.wait()
        return Done(request.number)
"""
NET = """
[roles.source]
kind = "nested.py:Source"
[roles.worker]
kind = "nested.py:Worker"
[roles.helper]
kind = "nested.py:Helper"
[wires]
work = "source -> worker"
look = "worker -> helper"
"""


async def test_who_asks_the_dead_tries_again_and_stays(tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(ROLES)
    async with running(NET, tmp_path) as run:
        await run.until(lambda: run.is_up("helper/0") and run.is_up("worker/0"))
        helper, worker = run.actor("helper/0"), run.actor("worker/0")
        await run.until(lambda: helper.asked == 4)
        run.kill("helper/0")
        await run.until(lambda: len(worker.done) == 20)
        assert sorted(worker.done) == list(range(20))
        assert run.actor("worker/0") is worker
        assert not any("worker/0" in e and "failed" in e for e in run.events())
