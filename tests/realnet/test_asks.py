"""Asks when something goes wrong inside a handler, or while who answers is being stopped."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from realnet import DeadlineExceeded, NoPeer, Overloaded, PeerDied, Refused
from realnet.testing import Running, running

ROLES = """
import asyncio
import time

from realnet import Actor, Ask, Config, Mailbox, Message, Request, handles


class Answer(Message):
    value: int
    rest: list[int] = []  # so that the collector sees records of it


class Say(Request[Answer]):
    how: str
    value: int = 0
    rest: list[int] = []


class SaySafely(Request[Answer]):
    safe = True


class Deep(Request[Answer]):
    pass


class Hold(Request[Answer]):
    load: bytes


class Word(Message):
    value: int


class Front(Actor[Config]):
    middle = Ask(Say, SaySafely)
    back = Ask(Hold)


class RunConfig(Config):
    cancelled: bool = False


class Middle(Actor[RunConfig]):
    back = Ask(Deep)

    async def start(self) -> None:
        self.calls = self.words = 0

    async def run(self) -> None:
        if self.config.cancelled:
            await gone()

    @handles
    async def say(self, request: Say) -> Answer:
        self.calls += 1
        if request.how == "cancelled":
            await gone()
        if request.how == "stubborn":
            try:
                await self.clock.sleep(1e6)
            except asyncio.CancelledError:
                pass
        if request.how == "wrong":
            return Word(1)
        if request.how == "wait":
            await self.clock.sleep(1e6)
        return Answer(request.value, request.rest)

    @handles
    async def safely(self, request: SaySafely) -> Answer:
        self.calls += 1
        return await self.back(Deep(), to="back/0~99")

    @handles
    async def word(self, word: Word) -> None:
        time.sleep(0.005)  # it never waits, and keeps the loop to itself
        self.words += 1


class Back(Actor[Config]):
    mailbox = Mailbox(messages=30, bytes=200_000)

    async def start(self) -> None:
        self.may_go = asyncio.Event()

    @handles
    async def hold(self, request: Hold) -> Answer:
        await self.may_go.wait()
        return Answer(len(request.load))

    @handles
    async def deep(self, request: Deep) -> Answer:
        return Answer(0)


async def gone() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future
"""
NET = """
[roles.front]
kind = "asked.py:Front"
[roles.middle]
kind = "asked.py:Middle"
count = 2
cancelled = {cancelled}
[roles.back]
kind = "asked.py:Back"
[wires]
say  = "front -> middle"
deep = "middle -> back"
hold = "front -> back"
"""


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[tuple[Running, Any, Any]]:
    """Run the network; give the run, its front actor, and the module of its records."""
    (folder / "asked.py").write_text(ROLES)
    async with running(NET.format(cancelled="false"), folder) as run:
        await run.until(lambda: run.is_up("front/0"))
        front = run.actor("front/0")
        await run.until(lambda: len(front.middle.peers) == 2)
        yield run, front, import_module(type(front).__module__)


async def test_a_handler_that_is_cancelled_from_within_answers(tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        with pytest.raises(Refused, match="cancelled by what its handler waited for"):
            await asyncio.wait_for(front.middle(asked.Say("cancelled")), 5)
        await run.until(lambda: any("/0 failed: RuntimeError" in e for e in run.events()))


async def test_a_reply_of_another_type_is_the_fault_of_who_answers(tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        text = "say of middle/[01] answered Say with a Word, and what it declares is Answer"
        with pytest.raises(Refused, match=text):
            await front.middle(asked.Say("wrong"))
        await run.until(
            lambda: (
                any("/0 failed: TypeError" in e for e in run.events())
                or any("/1 failed: TypeError" in e for e in run.events())
            )
        )


async def test_a_run_that_is_cancelled_from_within_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(ROLES)
    async with running(NET.format(cancelled="true"), tmp_path) as run:
        text = "failed: its run was cancelled by what it waited for"
        await run.until(lambda: any(text in e for e in run.events()))


async def test_the_death_of_a_third_is_no_reason_to_ask_again(tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        with pytest.raises(PeerDied, match="back/0 is not up"):
            await front.middle(asked.SaySafely(), deadline_s=5.0)
        assert run.actor("middle/0").calls + run.actor("middle/1").calls == 1


async def test_handlers_that_never_wait_leave_room_for_beats(tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        middle, seen = run.actor("middle/0"), []
        for value in range(100):
            front.middle.tell(asked.Word(value), to="middle/0")
        await run.until(lambda: middle.words > 0)
        asyncio.get_running_loop().call_later(0.01, lambda: seen.append(middle.words))
        await run.until(lambda: middle.words == 100)
        assert seen
        assert seen[0] < 100
        assert middle._world.serving.open == 0


async def test_who_waits_for_one_that_is_stopped_hears_so(tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        middle = run.actor("middle/0")
        how = ["wait"] * 30 + ["stubborn"] * 30
        waiting = [asyncio.ensure_future(front.middle(asked.Say(h), to="middle/0")) for h in how]
        await run.until(lambda: middle.calls == 60)
        queued = [asyncio.ensure_future(front.middle(asked.Say(""), to="middle/0"))]
        await middle._world.end(graceful=True)
        ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert all(isinstance(end, NoPeer) for end in ends[:30])
        assert all(isinstance(end, asked.Answer) for end in ends[30:])
        with pytest.raises(NoPeer):
            await asyncio.wait_for(queued[0], 5)
        assert middle._world.serving.open == 0
        assert not any("failed" in e for e in run.events())


async def test_one_member_is_named_with_and_without_its_life(tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        for name in ("middle/1", "middle/1~1"):
            assert (await front.middle(asked.Say("", 7), to=name)).value == 7
        front.middle.tell(asked.Word(1), to="middle/1")
        await run.until(lambda: run.actor("middle/1").words == 1)
        assert run.actor("middle/1").calls == 2
        with pytest.raises(PeerDied, match="middle/9 is not up"):
            await front.middle(asked.Say(""), to="middle/9")


async def test_no_time_is_no_time_and_for_ever_is_refused(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, front, asked):
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(front.middle(asked.Say("wait"), deadline_s=0.0), 5)
        for endless in (math.inf, math.nan):
            with pytest.raises(ValueError, match="an ask ends some time"):
                await front.middle(asked.Say("wait"), deadline_s=endless)


async def test_what_was_answered_is_not_kept(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, front, asked):
        said: list[int] = []

        async def ask() -> None:
            said.append((await front.middle(asked.Say("", 4_711))).value)

        await asyncio.gather(*(ask() for _ in range(20)))
        assert said == [4_711] * 20
        gc.collect()
        kinds = (asked.Say, asked.Answer)
        assert not [r for r in gc.get_objects() if type(r) in kinds and r.value == 4_711]
        kept = asked.Say("", 4_711)
        assert [r for r in gc.get_objects() if type(r) in kinds and r.value == 4_711] == [kept]


@pytest.mark.parametrize("size", [0, 20_000])
async def test_a_full_mailbox_refuses_at_once(size: int, tmp_path: Path) -> None:
    async with asking(tmp_path) as (run, front, asked):
        await run.until(lambda: bool(front.back.peers))
        back = run.actor("back/0")
        asks = [asyncio.ensure_future(front.back(asked.Hold(b"x" * size))) for _ in range(60)]
        await run.until(lambda: any(ask.done() for ask in asks))
        taken = back._world.serving.open
        assert 0 < taken <= 30
        assert taken == 30 or size  # either the messages or their bytes are too many
        back.may_go.set()
        ends = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 10)
        assert all(isinstance(end, Overloaded) or end.value == size for end in ends)
        refused = [str(end) for end in ends if isinstance(end, Overloaded)]
        assert len(refused) == 60 - taken
        assert "back/0: the mailbox is full" in refused[0]
        assert (await front.back(asked.Hold(b"12"))).value == 2  # there is room again


@pytest.mark.parametrize("force_codec", [False, True])
async def test_the_codec_is_skipped_in_a_process_unless_it_is_forced(
    force_codec: bool, tmp_path: Path
) -> None:
    (tmp_path / "asked.py").write_text(ROLES)
    net = NET.format(cancelled="false").replace("count = 2", 'place = "front"')
    async with running(net, tmp_path, force_codec=force_codec) as run:
        await run.until(lambda: run.is_up("front/0"))
        front, middle = run.actor("front/0"), run.actor("middle/0")
        asked = import_module(type(front).__module__)
        rest = [1, 2]
        reply = await front.middle(asked.Say("", 3, rest))
        assert reply == asked.Answer(3, [1, 2])
        assert (reply.rest is rest) is not force_codec
        front.middle.tell(asked.Word(1))
        await run.until(lambda: middle.words == 1)


async def test_a_worker_that_its_caller_and_its_actor_cancel_at_once_ends(tmp_path: Path) -> None:
    """As when a process fails: its tasks are cancelled while those who asked give up."""
    async with asking(tmp_path) as (run, front, asked):
        middle = run.actor("middle/0")
        waiting = [
            asyncio.ensure_future(front.middle(asked.Say("wait"), to="middle/0")) for _ in range(3)
        ]
        await run.until(lambda: middle.calls == 3)
        serving = middle._world.serving
        workers = [t for t in middle._world._tasks if t.get_name().endswith("worker")]
        serving.peer_down(front.address.full)
        for worker in workers:
            worker.cancel()
        _, left = await asyncio.wait(workers, timeout=5)
        assert not left
        assert serving.open == 0
        ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(end) for end in ends] == [Refused] * 3
