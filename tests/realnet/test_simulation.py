"""The simulator: equal seeds are equal runs, what holds holds, and planted bugs are found."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any

import pytest
from msgspec import structs

from realnet import Delivery
from realnet.affinity import End, Homes
from realnet.cell import LiveInlet  # where it is used
from realnet.compiled import FORM
from realnet.custody import Accepted, AckTo, Consumer, GrantTo
from realnet.deadlines import Deadlines
from realnet.delivery import Announce, Producer, Send
from realnet.link import Received, Session
from realnet.liveness import Beats, Hung, Suspected
from realnet.supervision import Down, Effect, Supervisor
from realnet.testing.loop import Deadlock, OutOfTime, run
from realnet.testing.scenario import Fault, make, play, play_scenario
from realnet.watches import Tell, Watches

SEEDS = 1_000


@pytest.mark.parametrize("seed", range(30))
def test_scenarios(seed: int) -> None:
    print(f"seed {SEEDS + seed}")
    result = play(SEEDS + seed)
    assert not result.wrong, result
    assert result.messages >= 1_000 or make(SEEDS + seed).stop_s is not None
    assert result.faults >= 7


def test_equal_seeds_are_equal_histories() -> None:
    assert play(7).digest == play(7).digest
    assert play(7).digest != play(8).digest


def test_hash_seeds_do_not_matter() -> None:
    code = "from realnet.testing.scenario import play; print(play(11).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


# ---------------------------------------------------------------- what simulation found


def test_a_head_that_stood_still_kills_nobody() -> None:
    for seed in range(3):
        faults = (Fault(2.0, "hang", "head", "", 8.0),)
        result = play_scenario(make(seed)._replace(faults=faults))
        assert not result.wrong, result
        assert not list(result.history.of("kill"))


def test_beats_forgive_the_time_that_the_watcher_was_away() -> None:
    beats = Beats(3, 10)
    beats.watch("a", 0)
    beats.away(20, 21)
    assert beats.tick(21) == []
    assert beats.tick(23) == [Suspected("a", 3.0)]
    assert beats.tick(30) == [Hung("a", 10.0)]


@pytest.mark.parametrize("reserve", [0, 1])
def test_a_circle_without_a_reserve_stands_still(reserve: int) -> None:
    scenario = make(11)._replace(faults=(Fault(0.0, "slow", "sink/0", "head"),), stop_s=None)
    roles = dict(scenario.plan.roles)
    for name, config in (("source", {"pause_s": 0.0}), ("worker", {"window": 2})):
        roles[name] = structs.replace(roles[name], config={**roles[name].config, **config})
    wires = tuple(structs.replace(w, feedback=reserve * w.feedback) for w in scenario.plan.wires)
    plan = structs.replace(scenario.plan, roles=roles, wires=wires)
    result = play_scenario(scenario._replace(plan=plan))
    assert any("for room for again" in text for text in result.wrong) == (not reserve), result
    assert bool(result.wrong) == (not reserve), result


# ---------------------------------------------------------------- planted bugs


def ack_before_the_handler_ended(patch: pytest.MonkeyPatch) -> None:
    async def handle(self: LiveInlet[Any], delivery: Delivery[Any]) -> None:
        delivery.settled()
        await self._handler(delivery)

    patch.setattr(LiveInlet, "_handle", handle)


def results_do_not_hold_their_cause(patch: pytest.MonkeyPatch) -> None:
    def settled(self: Delivery[Any], aside: str | None = None) -> None:
        self._aside = self._aside or aside
        if not self._finished:
            self._finished = True
            self._finish(self._aside)

    patch.setattr(Delivery, "settled", settled)


def no_dedupe(patch: pytest.MonkeyPatch) -> None:
    right = Consumer.item

    def item(self: Consumer, *args: Any) -> Accepted:
        return right(self, *args)._replace(fresh=True)

    patch.setattr(Consumer, "item", item)


def a_dead_consumer_takes_its_items_along(patch: pytest.MonkeyPatch) -> None:
    right = Producer.consumer_down

    def consumer_down(self: Producer, consumer: End) -> list[Send]:
        member = self._members.get(consumer)
        if member is not None:
            self._leased -= len(member.holds)
            member.holds.clear()
        return right(self, consumer)

    patch.setattr(Producer, "consumer_down", consumer_down)


def credit_never_returned(patch: pytest.MonkeyPatch) -> None:
    right = Producer.announce

    def announce(self: Producer) -> list[Announce]:
        return [a._replace(unused=0, unused_bytes=0) for a in right(self)]

    patch.setattr(Producer, "announce", announce)


def a_dead_producer_keeps_its_grants(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Consumer, "producer_down", lambda self, producer: None)


def the_window_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    right = Consumer.grants

    def grants(self: Consumer) -> list[GrantTo]:
        self.window += 50
        try:
            return right(self)
        finally:
            self.window -= 50

    patch.setattr(Consumer, "grants", grants)


def death_is_told_twice(patch: pytest.MonkeyPatch) -> None:
    right = Supervisor.exited

    def exited(self: Supervisor, *args: Any, **kwargs: Any) -> list[Effect]:
        effects = right(self, *args, **kwargs)
        return [*effects, *(e for e in effects if isinstance(e, Down))]

    patch.setattr(Supervisor, "exited", exited)


def death_is_not_told(patch: pytest.MonkeyPatch) -> None:
    right = Supervisor.exited

    def exited(self: Supervisor, *args: Any, **kwargs: Any) -> list[Effect]:
        return [e for e in right(self, *args, **kwargs) if not isinstance(e, Down)]

    patch.setattr(Supervisor, "exited", exited)


def hangs_are_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Beats, "tick", lambda self, now_s: [])


def everybody_hangs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Beats, "away", lambda self, seconds, now_s: None)


def reasons_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = Consumer.finish

    def finish(self: Consumer, key: str, aside: str | None) -> list[AckTo]:
        return right(self, key, None)

    patch.setattr(Consumer, "finish", finish)


def deadlines_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "_arm", lambda self: None)


def lost_batches_are_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "_repeat", lambda self, after, now_s: [])


def repeated_batches_are_used(patch: pytest.MonkeyPatch) -> None:
    right = Session.received

    def received(self: Session, number: int, *args: Any, **kwargs: Any) -> Received:
        return right(self, number, *args, **kwargs)._replace(fresh=number > 0)

    patch.setattr(Session, "received", received)


def a_lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Producer, "tick", lambda self, now_s: [])


def related_work_waits_for_the_stuck(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Producer, "_stall", lambda self, member: None)


def a_watch_fires_twice(patch: pytest.MonkeyPatch) -> None:
    right = Watches._over

    def over(self: Watches, *args: Any) -> list[Tell]:
        return [tell for tell in right(self, *args) for _ in range(2)]

    patch.setattr(Watches, "_over", over)


def byte_credit_is_leaked(patch: pytest.MonkeyPatch) -> None:
    right = Producer.announce

    def announce(self: Producer) -> list[Announce]:
        return [a._replace(unused_bytes=0) for a in right(self)]

    patch.setattr(Producer, "announce", announce)


def bytes_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    right = Consumer.grants

    def grants(self: Consumer) -> list[GrantTo]:
        self.window_bytes += 1 << 20
        try:
            return right(self)
        finally:
            self.window_bytes -= 1 << 20

    patch.setattr(Consumer, "grants", grants)


def the_feedback_reserve_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveInlet, "wired", lambda *args: None)


def related_work_goes_anywhere(patch: pytest.MonkeyPatch) -> None:
    turn = itertools.count()

    def of(self: Homes, key: str, members: Collection[End]) -> End:
        return list(members)[next(turn) % len(members)]

    patch.setattr(Homes, "of", of)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    ack_before_the_handler_ended,
    results_do_not_hold_their_cause,
    no_dedupe,
    a_dead_consumer_takes_its_items_along,
    credit_never_returned,
    a_dead_producer_keeps_its_grants,
    the_window_is_not_looked_at,
    death_is_told_twice,
    death_is_not_told,
    everybody_hangs,
    reasons_are_forgotten,
    deadlines_are_not_looked_at,
    lost_batches_are_not_sent_again,
    repeated_batches_are_used,
    a_lease_never_ends,
    related_work_waits_for_the_stuck,
    a_watch_fires_twice,
    byte_credit_is_leaked,
    bytes_are_not_looked_at,
    the_feedback_reserve_is_ignored,
    related_work_goes_anywhere,
]


@pytest.mark.skipif(FORM.startswith("compiled"), reason="bugs are planted in the sources")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_planted_bugs_are_found(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    for tries in range(1, 21):
        wrong = play(tries).wrong
        if wrong:
            print(f"found at seed {tries}: {wrong[0]}")
            return
    pytest.fail("20 scenarios did not notice")


# ---------------------------------------------------------------- the loop itself


def test_time_jumps() -> None:
    async def main() -> float:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        return asyncio.get_running_loop().time()

    assert run(main()) == 7200


def test_a_deadlock_is_named() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="nothing can happen any more"):
        run(main())


def test_time_can_run_out() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(OutOfTime, match="after 5 virtual s"):
        run(main(), until_s=5)


def test_executors_run_inline_one_call_at_a_time() -> None:
    async def main() -> list[int]:
        loop, order = asyncio.get_running_loop(), []
        calls = [loop.run_in_executor(None, order.append, i) for i in range(3)]
        assert order == []
        await asyncio.gather(*calls)
        return order

    assert run(main()) == [0, 1, 2]
