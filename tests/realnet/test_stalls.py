"""Progress budgets and compared records: the decisions."""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path

from small_net import topology

from realnet.agreement import Agreement
from realnet.stalls import Stalled, Stalls
from realnet.testing import running


def test_one_that_has_work_and_ends_nothing_is_told_once() -> None:
    s = Stalls(0, 0)
    s.watch("a/0", 10, 0)
    s.beat("a/0", 0, True, 1)
    assert s.tick(10.9) == []
    assert s.tick(11) == [Stalled("a/0", 10)]
    s.beat("a/0", 0, True, 12)
    assert s.tick(30) == []
    s.beat("a/0", 1, True, 31)  # it goes on: the next one is another stall
    assert s.tick(40.9) == []
    assert s.tick(41) == [Stalled("a/0", 10)]


def test_idleness_is_no_stall() -> None:
    s = Stalls(0, 0)
    s.watch("a/0", 10, 0)
    for now in range(100):
        s.beat("a/0", 7, False, now)
        assert s.tick(now) == []
    s.beat("a/0", 7, True, 100)
    assert s.tick(108.9) == []
    assert s.tick(109) == [Stalled("a/0", 10)]  # since it last had nothing to do


def test_no_budget_and_dead_ones_are_never_told() -> None:
    s = Stalls(0, 0)
    s.watch("a/0", 0, 0)
    s.watch("b/0", 5, 0)
    s.forget("b/0")
    s.beat("b/0", 1, True, 1)  # a late one
    assert s.tick(1e9) == []


def test_a_run_in_which_nothing_ends_is_told() -> None:
    s = Stalls(60, 0)
    s.watch("a/0", 0, 0)
    s.watch("b/0", 0, 0)
    s.beat("a/0", 1, True, 10)
    s.beat("b/0", 1, False, 30)
    s.beat("a/0", 1, True, 80)
    assert s.tick(89) == []
    assert s.tick(90) == [Stalled("", 60)]
    assert s.tick(200) == []
    s.moved(200)  # somebody died, and is started again
    assert s.tick(259) == []
    assert s.tick(260) == [Stalled("", 60)]


def test_time_in_which_the_head_stood_still_does_not_count() -> None:
    s = Stalls(60, 0)
    s.watch("a/0", 10, 0)
    s.away(100, 100)
    assert s.tick(105) == []
    assert s.tick(110) == [Stalled("a/0", 10)]


def test_a_process_whose_record_differs_is_named_with_the_other() -> None:
    s = Agreement()
    assert s.differs("a/0", {"m.X": "1", "m.Y": "2"}) == ""
    assert s.differs("b/0", {"m.Y": "2", "m.Z": "3"}) == ""
    text = s.differs("c/0", {"m.X": "1", "m.Z": "other", "m.New": "5"})
    assert text.startswith("c/0 has other fields in m.Z than b/0: the code differs")
    assert s.differs("d/0", {"m.New": "6"}) == ""  # a refused process sets nothing


async def test_a_stall_is_told_with_the_chain_and_who_waits_for_others_is_left_alone(
    tmp_path: Path,
) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: all(run.is_up(s) for s in run.head.supervisor.slots))
        worker = run.actor("worker/0")
        pipeline = import_module(type(worker).__module__)
        asking = asyncio.ensure_future(worker.helper(pipeline.Scale(-2)))
        run.head.patience.then["worker/0"] = "restart"
        run.head.stalls.watch("worker/0", 0.6, run.head.clock.now())
        await run.until(lambda: any("worker/0 has made no progress" in e for e in run.events()))
        told = next(e for e in run.events() if "worker/0 has made no progress" in e)
        assert "for helper/0 (Scale)" in told
        assert run.is_up("worker/0")
        asking.cancel()


async def test_a_run_that_stands_still_is_told_once(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=1), tmp_path) as run:
        await run.until(lambda: all(run.is_up(s) for s in run.head.supervisor.slots))
        run.head.stalls = Stalls(0.2, run.head.clock.now())
        await run.until(lambda: any("the run has made no progress" in e for e in run.events()))
        told = [e for e in run.events() if "the run has made no progress" in e]
        assert len(told) == 1
        assert "sink/0 is idle: no work comes" in told[0]
