"""Stops, starts and asks when something is in the way."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from small_net import topology

from realnet import DeadlineExceeded, NoPeer, PeerDied
from realnet.ending import Ending
from realnet.observe.view import View
from realnet.run import run_plan
from realnet.runfolder import RunFolder, newest_run
from realnet.testing import running
from realnet.testing.running import plan_of, quiet_view

HARD = """
import asyncio
from realnet import Actor, Config, Delivery, Inlet, Message, Outlet


class Thing(Message):
    value: int


class Config(Config):
    how: str = ""


class Maker(Actor[Config]):
    things = Outlet(Thing)

    async def run(self) -> None:
        await self.things.send(Thing(1), key="1")
        if self.config.how == "finish":
            self.finish("made one")

    async def drain(self) -> None:
        if self.config.how == "hang":
            await self.clock.sleep(1e6)


class Taker(Actor[Config]):
    things = Inlet(Thing)

    async def start(self) -> None:
        if self.config.how == "start cancelled":
            raise asyncio.CancelledError

    @things.handler
    async def on_thing(self, item: Delivery[Thing]) -> None:
        if self.config.how == "cancelled":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone

    told = staticmethod(lambda time_s: None)

    async def drain(self) -> None:
        self.told(self.clock.now())
        if self.config.how == "slow":
            await self.clock.sleep(0.5)
        if self.config.how == "hang":
            await self.clock.sleep(1e6)
        if self.config.how == "fail":
            raise OSError("no room on the disk")

    async def stop(self) -> None:
        if self.config.how == "stop":
            raise RuntimeError("cannot let go")


class Deaf(Actor[Config]):
    things = Inlet(Thing)
"""
NET = """
[run]
grace = "{grace}"
closing = "{grace}"
[roles.maker]
kind = "hard.py:Maker"
how = "{maker}"
[roles.taker]
kind = "hard.py:{kind}"
how = "{how}"
restart = false
[wires]
work = "maker -> taker"
"""


def net(
    folder: Path, how: str = "", maker: str = "", kind: str = "Taker", grace: str = "300ms"
) -> str:
    (folder / "hard.py").write_text(HARD)
    return NET.format(how=how, maker=maker, kind=kind, grace=grace)


async def outcome(text: str, folder: Path, view: View | None = None) -> Any:
    run_folder = RunFolder(folder / "run", resumed=False)
    try:
        return await asyncio.wait_for(
            run_plan(plan_of(text, folder), run_folder, view or quiet_view(), inline=True), 30
        )
    finally:
        run_folder.close()


async def test_a_drain_that_hangs_is_cut_off(tmp_path: Path) -> None:
    got = await outcome(net(tmp_path, how="hang", maker="finish"), tmp_path)
    assert got.code == 1
    assert got.text.startswith("made one; but taker in taker/0 did not stop in order")


@pytest.mark.parametrize(("how", "why"), [("fail", "no room on the disk"), ("stop", "cannot let")])
async def test_a_run_whose_role_fails_while_stopping_did_not_go_well(
    how: str, why: str, tmp_path: Path
) -> None:
    got = await outcome(net(tmp_path, how=how, maker="finish", grace="5s"), tmp_path)
    assert got.code == 1
    assert got.text.startswith("made one; but taker")
    assert why in got.text


async def test_a_good_end_gives_the_last_work_its_time(tmp_path: Path) -> None:
    """A drain that outlasts the grace of an interrupt is waited for when the run ended well."""
    text = net(tmp_path, "slow", "finish", grace="100ms").replace(
        'closing = "100ms"', 'closing = "20s"'
    )
    ended = await outcome(text, tmp_path)
    assert (ended.code, ended.text) == (0, "made one")


async def test_a_stage_that_hangs_leaves_the_later_ones_their_time(tmp_path: Path) -> None:
    text = net(tmp_path, maker="hang", grace="4s")
    async with running(text, tmp_path) as run:
        await run.until(lambda: run.is_up("maker/0"))
        began_s = time.monotonic()
        stopped: list[float] = []
        taker = run.actor("taker/0")
        taker.told = stopped.append
        await run.head.stop_all(graceful=True, budget_s=4.0)
        assert len(run.head.troubles) == 1
        assert "maker in maker/0 did not stop in order" in run.head.troubles[0]
        assert len(stopped) == 1  # it was stopped in order, after the one that hung
        assert stopped[0] - began_s < 4.0  # the one that hung had not all of the time


async def test_a_role_that_cannot_be_made_ends_the_run(tmp_path: Path) -> None:
    got = await outcome(net(tmp_path, kind="Deaf"), tmp_path)
    assert got.code == 2
    assert "taker/0: Deaf.things is an Inlet without a handler" in got.text


async def test_a_start_that_is_cancelled_is_a_failure(tmp_path: Path) -> None:
    got = await outcome(net(tmp_path, how="start cancelled"), tmp_path)
    assert got.code == 1
    assert "taker/0 cannot go on" in got.text


async def test_a_handler_that_is_cancelled_from_within_is_a_failure(tmp_path: Path) -> None:
    got = await outcome(net(tmp_path, how="cancelled"), tmp_path)
    assert got.code == 1
    assert "things 1 was cancelled" in got.text


async def test_a_module_that_cannot_be_imported_ends_an_inline_run(tmp_path: Path) -> None:
    text = net(tmp_path)
    plan = plan_of(text, tmp_path)
    (tmp_path / "hard.py").unlink()
    sys.modules.pop("realnet_user_hard", None)
    folder = RunFolder(tmp_path / "run", resumed=False)
    try:
        got = await asyncio.wait_for(run_plan(plan, folder, quiet_view(), inline=True), 10)
    finally:
        folder.close()
    assert got.code == 2
    assert "no file" in got.text
    assert "hard.py" in got.text


async def test_a_run_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    folder = RunFolder(tmp_path / "run", resumed=False)
    plan = plan_of(net(tmp_path), tmp_path)
    going = asyncio.ensure_future(run_plan(plan, folder, quiet_view(), inline=True))
    while "maker" not in "".join(str(t.get_name()) for t in asyncio.all_tasks()):
        await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    folder.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_a_short_deadline_after_a_long_one(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("worker/0"))
        worker = run.actor("worker/0")
        pipeline = import_module(type(worker).__module__)
        long = asyncio.ensure_future(worker.helper(pipeline.Scale(-2), deadline_s=1e6))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(worker.helper(pipeline.Scale(-2), deadline_s=0.05), 5)
        long.cancel()


async def test_an_ask_that_is_given_up_at_once_leaves_nothing(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("worker/0"))
        worker, helper = run.actor("worker/0"), run.actor("helper/0")
        pipeline = import_module(type(worker).__module__)
        cell = helper._world
        for _ in range(50):
            asking = asyncio.ensure_future(worker.helper(pipeline.Scale(-2)))
            await asyncio.sleep(0)
            asking.cancel()
        assert await worker.helper(pipeline.Scale(2))
        await run.until(lambda: cell.serving.open == worker._world.calls.open == 0)
        assert await worker.helper(pipeline.Scale(2), to=next(iter(worker.helper.peers)))


async def test_a_named_member_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("worker/0"))
        worker = run.actor("worker/0")
        pipeline = import_module(type(worker).__module__)
        name = next(iter(worker.helper.peers))
        run.kill("helper/0")
        await run.until(lambda: not worker.helper.peers)
        with pytest.raises(PeerDied):
            await asyncio.wait_for(worker.helper(pipeline.Scale(1), to=name), 0.05)


async def test_asking_a_role_that_was_stopped_fails_at_once(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("worker/0"))
        worker = run.actor("worker/0")
        pipeline = import_module(type(worker).__module__)
        await Ending(run.head).stop_role("helper/0", "helper", time.monotonic() + 5)
        with pytest.raises(NoPeer, match="helper/0: it has been stopped"):
            await asyncio.wait_for(worker.helper(pipeline.Scale(1)), 5)


async def test_waiting_for_a_state_in_vain_leaves_nothing(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("source/0"))
        source = run.actor("source/0")
        await source.level.get()
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(source.level.changed(), 0.001)
        assert source.level._waiters == []


class BrokenView(View):
    """Somebody's own view, with a mistake in it."""

    def row(self, kind: str, row: Any) -> None:
        raise KeyError("loss")

    def draw(self) -> None:
        raise ZeroDivisionError


async def test_a_view_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    view = BrokenView(quiet_view().console)
    got = await outcome(net(tmp_path, maker="finish", grace="5s"), tmp_path, view)
    assert (got.code, got.text) == (0, "made one")
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "the view cannot show a row of event" in events
    assert "the view cannot be drawn any more" in events


def test_resume_takes_the_newest_run_of_the_same_topology(tmp_path: Path) -> None:
    for at_s, (name, title) in enumerate((("a", "a"), ("a-2", "a"), ("a-smoke", "a-smoke"))):
        (tmp_path / name).mkdir()
        plan = tmp_path / name / "plan.json"
        plan.write_text(f'{{"title": "{title}"}}')
        os.utime(plan, (at_s, at_s))
    assert newest_run(tmp_path, "a").name == "a-2"
