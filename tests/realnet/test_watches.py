"""Deaths are told to whoever watches, once: first the decisions, then actors of a small network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from small_net import topology

from realnet import Address, ConfigError, Death
from realnet.ending import Ending
from realnet.testing import running
from realnet.waits import Waits
from realnet.watches import Tell, Watches
from realnet.watching import Watching


def life(incarnation: int = 0, role: str = "a") -> Address:
    return Address(role, 0, incarnation)


NOT_THERE = "it is not there, and nobody here has heard of it"


def test_a_death_is_told_once_to_each_watch() -> None:
    w = Watches()
    w.up(life(1))
    first, told = w.watch(life())
    assert told == []
    second, _ = w.watch(life(1))
    assert w.is_known(first)
    assert w.down(life(1), "killed") == [
        Tell(first, Death(life(1), "killed")),
        Tell(second, Death(life(1), "killed")),
    ]
    assert w.down(life(1), "killed") == []
    assert w.up(life(2)) == []
    assert w.down(life(1), "late") == []
    assert w.open == 0


def test_the_present_life_is_meant_not_the_next_one() -> None:
    w = Watches()
    w.up(life(1))
    old, _ = w.watch(life())
    w.down(life(1), "x")
    between, told = w.watch(life())
    assert told == [Tell(between, Death(life(1), "x"))]  # it is down just now
    w.up(life(2))
    new, told = w.watch(life())
    assert told == []
    assert w.down(life(2), "y") == [Tell(new, Death(life(2), "y"))]
    assert old != new


def test_dead_and_never_there_are_told_at_once() -> None:
    w = Watches()
    n, told = w.watch(life())
    assert told == [Tell(n, Death(life(), NOT_THERE))]
    w.up(life(3))
    n, told = w.watch(life(2))
    assert told == [Tell(n, Death(life(2), "it ended before a later life of its name"))]
    w.down(life(3), "boom")
    n, told = w.watch(life(3))
    assert told == [Tell(n, Death(life(3), "boom"))]
    assert w.open == 0


def test_a_next_life_ends_the_watches_of_the_one_before() -> None:
    w = Watches()
    w.up(life(1))
    n, _ = w.watch(life(1))
    why = "its next life, a/0~2, took its place"
    assert w.up(life(2)) == [Tell(n, Death(life(1), why))]
    assert w.down(life(1), "the word of it came late") == []


def test_a_life_that_is_announced_later_is_waited_for() -> None:
    w = Watches()
    known, told = w.watch(life(1))
    never, also = w.watch(life(2))
    assert told == also == []
    assert not w.is_known(known)
    w.up(life(1))
    assert w.is_known(known)
    assert w.unheard(known) == []
    assert w.unheard(never) == [Tell(never, Death(life(2), NOT_THERE))]
    assert w.unheard(never) == []
    assert w.down(life(1), "x") == [Tell(known, Death(life(1), "x"))]
    unseen, _ = w.watch(life(5))
    assert w.down(life(5), "y") == [Tell(unseen, Death(life(5), "y"))]


def test_a_cancelled_watch_hears_nothing() -> None:
    w = Watches()
    w.up(life(1))
    gone, _ = w.watch(life())
    w.cancel(gone)
    w.cancel(gone)
    assert w.open == 0
    assert w.down(life(1), "x") == []


def test_an_actor_without_lives_is_watched_as_well() -> None:
    """The head has incarnation 0 for ever."""
    w = Watches()
    w.up(life(0))
    n, told = w.watch(life())
    assert told == []
    assert w.down(life(0), "x") == [Tell(n, Death(life(0), "x"))]


def test_what_is_remembered_of_the_dead_is_bounded() -> None:
    w = Watches(max_names=3)
    w.up(life(1, "alive"))
    w.up(life(1, "watched"))
    n, _ = w.watch(life(1, "watched"))
    for i in range(100):
        w.up(life(1, f"r{i}"))
        w.down(life(1, f"r{i}"), "x")
        w.watch(life(0, f"nobody{i}"))
    assert len(w._names) <= 3
    assert w.down(life(1, "watched"), "y") == [Tell(n, Death(life(1, "watched"), "y"))]
    assert w.watch(life(0, "alive"))[1] == []


async def test_a_watch_that_is_given_up_leaves_nothing() -> None:
    watching = Watching(Waits(lambda: 0.0))
    watching.up(["a/0~1"])
    tasks = [asyncio.ensure_future(watching.watch("b/0", a)) for a in ("a/0", "a/0~9")]
    await asyncio.sleep(0)
    assert watching.watches.open == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert watching.watches.open == 0
    assert watching._futures == {}
    with pytest.raises(ConfigError, match="is not an address"):
        await watching.watch("b/0", "nonsense")


async def test_one_that_nobody_announces_is_told_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realnet.watching.UNHEARD_S", 0.01)
    watching = Watching(Waits(lambda: 0.0))
    assert (await watching.watch("b/0", "a/0~7")).why == NOT_THERE


async def test_actors_hear_of_each_others_deaths(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=0, workers=2), tmp_path) as run:
        await run.until(lambda: all(run.is_up(s) for s in run.head.supervisor.slots))
        sink, source = run.actor("sink/0"), run.actor("source/0")
        watchers = [
            asyncio.ensure_future(sink.watch("worker/0")),
            asyncio.ensure_future(sink.watch(run.actor("worker/0").address)),
            asyncio.ensure_future(source.watch("worker/0~1")),
        ]
        other = asyncio.ensure_future(source.watch("worker/1"))
        await asyncio.sleep(0)
        assert sink._world.waits.of("sink/0")[-1][0] == "the death of worker/0"
        run.kill("worker/0")
        deaths = await asyncio.wait_for(asyncio.gather(*watchers), 10)
        assert {d.address.full for d in deaths} == {"worker/0~1"}
        assert {d.why for d in deaths} == {"killed by SIGKILL"}
        assert str(deaths[0]) == "worker/0 is gone: killed by SIGKILL"
        assert not other.done()
        await run.until(lambda: run.is_up("worker/0"))
        late = await asyncio.wait_for(source.watch("worker/0~1"), 10)
        assert late.address.incarnation == 1
        again = asyncio.ensure_future(source.watch("worker/0"))
        await asyncio.sleep(0)
        run.kill("worker/0")
        assert (await asyncio.wait_for(again, 10)).address.incarnation == 2
        other.cancel()


async def test_actors_of_one_process_watch_each_other(tmp_path: Path) -> None:
    text = topology(tmp_path, num=0, workers=1)
    text = text.replace("Helper", 'Helper"\nplace = "sink', 1)
    async with running(text, tmp_path) as run:
        await run.until(lambda: run.is_up("sink/0"))
        sink = run.actor("sink/0")
        watch = asyncio.ensure_future(sink.watch("helper/0"))
        await asyncio.sleep(0)
        assert not watch.done()
        await Ending(run.head).stop_role("sink/0", "helper", run.head.clock.now() + 5)
        assert (await asyncio.wait_for(watch, 10)).why == "it was stopped in order"
