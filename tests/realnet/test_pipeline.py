"""A network in one loop: delivery, custody, redelivery, asks, streams, state, stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from small_net import topology

from realnet import DeadlineExceeded, PeerDied, Refused
from realnet.testing import Running, running


async def test_every_item_arrives_once(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=200, workers=3), tmp_path) as run:
        await run.until(lambda: run.is_up("source/0"))
        sink, source = run.actor("sink/0"), run.actor("source/0")
        await run.until(lambda: len(sink.got) == 199 and source.numbers.leased == 0)
        assert sorted(sink.got) == [i for i in range(200) if i != 13]
        assert all(s.square == v * v for v, s in sink.got.items())
        assert sink.times == 199
        assert source.aside == [(13, "thirteen")]
        assert {s.worker for s in sink.got.values()} == {0, 1, 2}
        assert source.level.value.level == 7
        assert source.numbers.waiting == 0


async def until_worked(run: Running) -> None:
    await run.until(lambda: run.is_up("source/0"))


async def test_killed_worker_loses_nothing(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=300, workers=2), tmp_path) as run:
        await until_worked(run)
        sink = run.actor("sink/0")
        for done in (20, 60, 120):
            await run.until(lambda done=done: len(sink.got) >= done)
            run.kill("worker/0")
            await run.until(lambda: run.is_up("worker/0"))
        await run.until(lambda: len(sink.got) == 299)
        assert any("worker/0 died: killed by SIGKILL" in e for e in run.events())


async def test_killed_sink_gets_it_again(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=100), tmp_path) as run:
        await until_worked(run)
        first = run.actor("sink/0")
        await run.until(lambda: len(first.got) >= 30)
        run.kill("sink/0")
        await run.until(lambda: run.is_up("sink/0"))
        source = run.actor("source/0")
        await run.until(lambda: source.sent == 100 and source.numbers.leased == 0)
        second = run.actor("sink/0")
        assert set(first.got) | set(second.got) == set(range(100)) - {13}


async def test_back_pressure_holds_the_source(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=100, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("worker/0"))
        worker = run.actor("worker/0")
        worker.hold = True
        await until_worked(run)
        source = run.actor("source/0")
        await run.until(lambda: worker.holding == 4 and source.numbers.waiting == 1)
        sent = source.sent
        for _ in range(20):
            await source.clock.sleep(0.005)
        assert source.sent == sent  # the worker's window is full
        assert worker.numbers.in_hand == 4
        await run.until(
            lambda: any(
                "room for numbers at worker/0" in w[0]
                for w in run.head.status["source/0"].waits.get("source/0", ())
            )
        )
        worker.hold = False
        await run.until(lambda: source.sent == 100)


async def test_asks_fail_by_name(tmp_path: Path) -> None:
    from importlib import import_module

    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await until_worked(run)
        worker, helper = run.actor("worker/0"), run.actor("helper/0")
        pipeline = import_module(type(worker).__module__)
        with pytest.raises(DeadlineExceeded, match="helper/0 did not answer worker/0"):
            await worker.helper(pipeline.Scale(-2), deadline_s=0.05)
        await run.until(lambda: helper.cancelled)
        got = [i.factor async for i in worker.helper.stream(pipeline.Count(500))]
        assert got == list(range(500))
        first = next(iter(worker.helper.peers))
        asking = asyncio.ensure_future(worker.helper(pipeline.Scale(-2), to=first))
        await asyncio.sleep(0)
        run.kill("helper/0")
        with pytest.raises(PeerDied, match="helper/0 died while worker/0 was asking it"):
            await asking
        with pytest.raises(Refused, match="minus one"):  # of the next incarnation
            await worker.helper(pipeline.Scale(-1))
        await run.until(lambda: any("helper/0 failed" in e for e in run.events()))


async def test_an_ask_that_is_late_already_harms_no_other(tmp_path: Path) -> None:
    """As one that is asked again after a death: it was sent with a budget below nothing."""
    from importlib import import_module

    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await until_worked(run)
        worker = run.actor("worker/0")
        pipeline = import_module(type(worker).__module__)
        late = asyncio.ensure_future(worker.helper(pipeline.Scale(-2), deadline_s=-0.5))
        beside = asyncio.ensure_future(worker.helper(pipeline.Scale(1), deadline_s=5.0))
        with pytest.raises(DeadlineExceeded):
            await late
        assert (await beside).factor == 1
        assert not any("damaged" in e for e in run.events())
