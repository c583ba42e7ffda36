"""A record of another kind than a wire or a stream is for: who sends it hears so, and it stays.
Of a sender that does not look, whoever gets it tells, and nothing else is disturbed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from realnet import Refused, WireError
from realnet.testing import Running, running

ROLES = """
from realnet import (
    Actor, Ask, Config, Delivery, Inlet, Message, Outlet, Refused, StateIn, StateOut,
    StreamRequest, handles
)


class Right(Message):
    n: int


class Wrong(Message):
    n: int


class Items(StreamRequest[Right]):
    bad: bool = False
    refused: bool = False


class Both(StreamRequest[Wrong]):
    pass


class Maker(Actor[Config]):
    out = Outlet(Right)
    state = StateOut(Right)

    @handles
    async def items(self, request: Items):
        yield Right(1)
        if request.bad:
            yield Wrong(2)
        if request.refused:
            raise Refused("no more")
        yield Right(3)

    @handles
    async def both(self, request: Both):
        yield Wrong(1)


class Taker(Actor[Config]):
    into = Inlet(Right)
    state = StateIn(Right)
    ask = Ask(Items, Both)  # so both kinds are known here

    async def start(self) -> None:
        self.got = []

    @into.handler
    async def take(self, item: Delivery[Right]) -> None:
        self.got.append(item.body.n)
"""
NET = """
[roles.maker]
kind = "misfits.py:Maker"
[roles.taker]
kind = "misfits.py:Taker"
[wires]
out   = "maker.out -> taker"
state = "maker.state -> taker"
ask   = "taker.ask -> maker"
"""


@asynccontextmanager
async def made(folder: Path) -> AsyncIterator[tuple[Running, Any, Any, Any]]:
    (folder / "misfits.py").write_text(ROLES)
    async with running(NET, folder) as run:
        await run.until(lambda: run.is_up("maker/0") and run.is_up("taker/0"))
        maker, taker = run.actor("maker/0"), run.actor("taker/0")
        await run.until(lambda: maker.state.peers and taker.ask._members)
        yield run, maker, taker, import_module(type(maker).__module__)


async def test_who_sends_a_misfit_hears_so_and_nothing_leaves(tmp_path: Path) -> None:
    async with made(tmp_path) as (run, maker, taker, records):
        told = r"maker/0\.(out|state) is for Right, not for a "
        for misfit, name in ((records.Wrong(1), "Wrong"), (5, "int"), (None, "NoneType")):
            with pytest.raises(WireError, match=told + name):
                await maker.out.send(misfit)
            with pytest.raises(WireError, match=told + name):
                maker.state.set(misfit)
        assert maker.out.waiting == maker.out.leased == 0
        await maker.out.send(records.Right(7))
        maker.state.set(records.Right(8))
        assert (await taker.state.get()).n == 8
        await run.until(lambda: taker.got == [7])


async def test_a_misfit_that_arrives_is_told_at_both_ends_and_handled_by_none(
    tmp_path: Path,
) -> None:
    async with made(tmp_path) as (run, maker, taker, records):
        maker.state.set(records.Right(1))
        assert (await taker.state.get()).n == 1
        maker.out.kinds = maker.state.kinds = ()  # a sender that does not look
        aside: list[tuple[int, str]] = []
        maker.out.on_set_aside(lambda record, why: aside.append((record.n, why)))
        await maker.out.send(records.Wrong(2))
        maker.state.set(records.Wrong(2))
        told = "is for Right, not for a Wrong, which maker/0~1 sent"
        await run.until(lambda: sum(told in e for e in run.events()) == 2)
        await run.until(lambda: bool(aside))
        assert aside == [(2, f"taker/0.into {told}")]
        assert taker.got == []
        assert taker.state.value.n == 1
        await maker.out.send(records.Right(3))
        maker.state.set(records.Right(4))
        await run.until(lambda: taker.got == [3])
        await run.until(lambda: taker.state.value.n == 4)
        assert maker.out.leased == 0
        assert taker.into.in_hand == 0


async def test_a_stream_ends_at_an_item_of_another_kind(tmp_path: Path) -> None:
    async with made(tmp_path) as (run, _, taker, records):
        assert [i.n async for i in taker.ask.stream(records.Items())] == [1, 3]
        assert [i.n async for i in taker.ask.stream(records.Both())] == [1]
        got = []
        text = "items of maker/0 answered Items with a Wrong, and what it declares is Right"
        with pytest.raises(Refused, match=text):  # noqa: PT012
            async for item in taker.ask.stream(records.Items(bad=True)):
                got.append(item)
        assert got == [records.Right(1)]
        await run.until(lambda: any(text in e for e in run.events()))
        # As with a reply: a failure of who answers, which begins anew.
        await run.until(lambda: list(taker.ask._members) == ["maker/0~2"])
        assert [i.n async for i in taker.ask.stream(records.Items())] == [1, 3]


async def test_a_stream_that_is_refused_in_the_middle_harms_no_later_one(tmp_path: Path) -> None:
    async with made(tmp_path) as (_, _, taker, records):
        for _ in range(3):
            assert [i.n async for i in taker.ask.stream(records.Items())] == [1, 3]
            with pytest.raises(Refused, match="no more"):  # noqa: PT012
                async for item in taker.ask.stream(records.Items(refused=True)):
                    assert item.n == 1
