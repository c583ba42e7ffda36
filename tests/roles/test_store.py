"""Killed at any point, the trainer's store loses no ticket, trains none twice, reuses no number."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from realnet.errors import CheckpointError
from realnet.roles.checkpoints.checkpoint import Checkpoints
from realnet.roles.checkpoints.meta import read_meta
from realnet.roles.journal import Journal, JournalFull
from realnet.roles.ledger import IllegalMove, TicketState
from realnet.roles.messages import (
    GroupClosed,
    Rollout,
    SampleKey,
    Scored,
    Segment,
    Span,
    TicketKey,
    Version,
)
from realnet.roles.tables import Policy
from realnet.roles.tasks.curriculum import Curriculum
from realnet.roles.trainer.store import Store

GROUP = 2


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that was written: these tests need no disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


async def inline(work: Callable[[], None]) -> None:
    work()


def policy(over_age: str = "allow", batch: int = 3, max_age: int = 1) -> Policy:
    return Policy(model="new:llama", batch=batch, max_age=max_age, group=GROUP, over_age=over_age)  # type: ignore[arg-type]


def scored(
    ticket: int, sample: int, version: Version | None = None, task: str = "t", reward: float = 1.0
) -> Scored:
    ids = np.arange(3, dtype=np.int32)
    spans = (Span(version, 3),) if version else ()
    segment = Segment("model", ids, np.zeros(3, np.float32), spans, learn=True)
    key = SampleKey(TicketKey("p", ticket), sample)
    return Scored(Rollout(key, task, "2+2=", "4", "4", (segment,), "stop"), reward)


def closed(ticket: int, samples: int = GROUP, reason: str = "") -> GroupClosed:
    return GroupClosed(TicketKey("p", ticket), samples, reason)


class Life:
    """One life of a trainer: what its actor does around the store, without model or wires."""

    def __init__(self, folder: Path, over_age: str = "allow") -> None:
        self.policy = policy(over_age)
        self.journal = Journal(folder / "journal", run=inline, segment_bytes=4000)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=2)
        self.notices: list[str] = []
        self.store = Store("p", self.policy, self.journal)

    async def begin(self) -> Life:
        self.journal.open()
        found = self.checkpoints.newest(self.notices.append)
        self.store.rebuild(found)
        if found is None:
            self.save()
        else:
            await self.store.resume(read_meta(found).version)
        self.store.published = self.store.step
        return self

    def kill(self) -> None:
        self.journal.close()

    def save(self) -> None:
        small = self.store.snapshot()
        self.checkpoints.save(self.store.step, small, lambda folder: None)

    async def trim(self) -> None:
        await self.journal.rotate()
        oldest = self.checkpoints.all()[0]
        found = [f for f in (self.checkpoints.newest(self.notices.append),) if f]
        assert found
        marks = [read_meta(found[0]._replace(step=s, folder=f)).journal_from
                 for s, f in self.checkpoints.all()]  # fmt: skip
        assert oldest
        await self.journal.trim(min(marks))

    async def step(self) -> tuple[int, ...] | None:
        groups = self.store.batch_ready()
        if groups is None:
            return None
        await self.store.begin_step(groups)
        self.store.trained(groups)
        self.store.published = self.store.step
        return tuple(g.key.ticket for g in groups)

    async def whole(self, ticket: int, version: Version | None = None) -> None:
        for sample in range(GROUP):
            await self.store.arrived(scored(ticket, sample, version))
        await self.store.arrived(closed(ticket))

    async def four_steps(self) -> None:
        """Step four times, with all groups there that admission lets out before each."""
        for _ in range(4):
            while pairs := await self.store.take(9, first=False):
                for ticket in range(*pairs[0]):
                    await self.whole(ticket, self.store.version)
            await self.step()

    def state(self, ticket: int) -> TicketState:
        return self.store.ledger.state(ticket)


class Outside:
    """Prompter, drivers and rewarders as the trainer sees them, and what was promised to them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.held: dict[int, set[int]] = {}  # ticket -> samples that are not acknowledged yet
        self.done: set[int] = set()  # every sample and the closing were acknowledged
        self.aside: set[int] = set()
        self.ever: set[int] = set()

    def got(self, pairs: tuple[tuple[int, int], ...]) -> None:
        for start, end in pairs:
            for ticket in range(start, end):
                self.ever.add(ticket)
                self.held.setdefault(ticket, set(range(GROUP + 1)))

    async def deliver(self, life: Life) -> None:
        if not self.held:
            return
        ticket = self.rng.choice(sorted(self.held))
        part = self.rng.choice(sorted(self.held[ticket]))
        for _ in range(self.rng.choice([1, 1, 2])):  # redelivery
            await life.store.arrived(scored(ticket, part) if part < GROUP else closed(ticket))
        self.held[ticket].discard(part)
        if not self.held[ticket]:
            del self.held[ticket]
            self.done.add(ticket)

    async def give_up(self, life: Life) -> None:
        if self.held:
            ticket = self.rng.choice(sorted(self.held))
            del self.held[ticket]
            if life.store.ledger.is_open(ticket):
                self.aside.add(ticket)
            await life.store.report((), [(ticket, "poison")])


async def act(life: Life, outside: Outside, history: list[tuple[int, ...]], move: str) -> None:
    """Do one thing, and check what must always hold."""
    store, rng = life.store, outside.rng
    if move == "take":
        over = store.ledger.out > store.ledger.bound
        issued = store.ledger.issued
        outside.got(await store.take(rng.randrange(1, 6), first=rng.random() < 0.1) or ())
        assert not over or store.ledger.issued == issued
    elif move == "hand" and outside.held:
        await store.report(rng.sample(sorted(outside.held), 1), ())
    elif move == "step":
        tickets = await life.step()
        if tickets is not None:
            del history[store.step - 1 :]
            history.append(tickets)
    elif move == "save":
        life.save()
    elif move == "trim":
        life.save()
        await life.trim()
    elif move == "aside":
        await outside.give_up(life)
    else:
        await outside.deliver(life)
    assert all(store.ledger.is_open(ticket) for ticket in store._handing.again)
    store.ledger.check()


MOVES = ["take", "hand", "deliver", "deliver", "deliver", "deliver", "step", "save", "trim",
         "aside", "kill"]  # fmt: skip
WEIGHTS = [4, 2, 8, 8, 8, 8, 4, 1, 1, 1, 2]


@pytest.mark.parametrize("seed", range(25))
async def test_any_history_with_kills_keeps_every_promise(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    outside = Outside(rng)
    history: list[tuple[int, ...]] = []  # the batch of each step of the surviving line
    versions: dict[Version, tuple[int, ...]] = {}
    life = await Life(tmp_path).begin()
    branches = {0}
    for _ in range(300):
        move = rng.choices(MOVES, WEIGHTS)[0]
        before = list(history)
        if move == "kill":
            life.kill()
            life = await Life(tmp_path).begin()
            assert life.store.version.branch not in branches
            branches.add(life.store.version.branch)
            lost = history[life.store.step :]
            again: list[tuple[int, ...]] = []
            for batch in lost[: rng.randrange(3)]:  # lost steps take the same batches again
                again.append(await life.step() or ())
                assert again[-1] == batch
            del history[life.store.step :]
        else:
            await act(life, outside, history, move)
        if len(history) > len(before):
            assert life.store.version not in versions
            versions[life.store.version] = history[-1]
        trained = [t for batch in history for t in batch]
        assert len(trained) == len(set(trained))
        assert life.store.ledger.tickets(TicketState.TRAINED) == sorted(trained)
        for ticket in outside.done - outside.aside:  # acknowledged: never asked for again
            assert life.state(ticket) in (TicketState.BUFFERED, TicketState.TRAINED)
        for ticket in outside.aside:
            assert life.state(ticket) is TicketState.SET_ASIDE
    await finish(life, outside, history)


async def finish(life: Life, outside: Outside, history: list[tuple[int, ...]]) -> None:
    """A new life of everything outside gets all that is open; then no ticket is left over."""
    while True:
        outside.held.clear()
        outside.got(await life.store.take(99, first=True) or ())
        while outside.held:
            await outside.deliver(life)
        if await life.step() is None:
            break
    counts = life.store.ledger.counts()
    life.kill()
    assert counts["waiting"] == counts["leased"] == 0
    assert counts["buffered"] < 3
    assert counts["issued"] == counts["trained"] + counts["set_aside"] + counts["buffered"]


async def test_cut_off_at_every_byte_of_the_journal_the_balance_holds(tmp_path: Path) -> None:
    """Truncate at each offset: a prefix of the history, every ticket in one state, work goes on."""
    life = await Life(tmp_path / "a").begin()
    await life.store.take(6, first=False)
    for ticket in range(4):
        await life.whole(ticket)
    await life.store.report((4,), [(5, "poison")])
    await life.step()
    life.kill()
    log = tmp_path / "a" / "journal" / "000001.log"
    data = log.read_bytes()
    seen = set()
    for cut in range(0, len(data), 7):
        log.write_bytes(data[:cut])
        again = await Life(tmp_path / "a").begin()
        counts = again.store.ledger.counts()
        again.kill()
        assert counts["trained"] == 0
        assert counts["issued"] in (0, 6)
        seen.add((counts["issued"], counts["buffered"], counts["set_aside"]))
    assert {(0, 0, 0), (6, 0, 0), (6, 3, 0)} <= seen
    (tmp_path / "a" / "journal" / "000001.log").write_bytes(data)
    again = await Life(tmp_path / "a").begin()
    assert again.store.ledger.counts()["set_aside"] == 1
    assert await again.step() == (0, 1, 2)
    again.kill()


async def test_a_resumed_step_takes_the_batch_that_was_planned(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    await life.store.take(6, first=False)
    for ticket in (2, 4, 5):
        await life.whole(ticket)
    assert await life.step() == (2, 4, 5)
    for ticket in (0, 1, 3):
        await life.whole(ticket)
    life.kill()
    again = await Life(tmp_path).begin()
    assert again.store.step == 0
    assert str(again.store.version) == "p v1.0"
    assert await again.step() == (2, 4, 5)  # not the oldest: the same as before
    assert await again.step() == (0, 1, 3)
    again.kill()


async def test_tickets_lost_on_their_way_to_the_prompter_are_given_again(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    assert await life.store.take(4, first=False) == ((0, 4),)
    await life.store.report((0,), ())
    await life.whole(1)
    life.kill()
    again = await Life(tmp_path).begin()
    assert await again.store.take(9, first=False) == ((2, 4),)  # 0 is with a driver, 1 is whole
    assert await again.store.take(9, first=False) == ((4, 6),)
    assert await again.store.take(9, first=False) is None
    assert await again.store.take(9, first=True) == ((0, 1), (2, 6))
    again.kill()


async def test_whoever_asks_again_gets_back_its_own_tickets_and_no_others(tmp_path: Path) -> None:
    """A prompter and a collector beside it: none may answer what the other has."""
    life = await Life(tmp_path).begin()
    store = life.store
    assert await store.take(2, first=True, asker="prompter/0") == ()
    assert await store.take(2, first=False, asker="prompter/0") == ((0, 2),)
    assert await store.take(2, first=True, asker="collector/0") == ()
    assert await store.take(2, first=False, asker="collector/0") == ((2, 4),)
    assert await store.take(2, first=True, asker="prompter/0") == ((0, 2),)
    assert await store.take(2, first=True, asker="collector/0") == ((2, 4),)
    await life.whole(3)
    life.kill()
    again = await Life(tmp_path).begin()
    assert await again.store.take(9, first=True, asker="collector/0") == (
        (0, 3),
    )  # nobody has them
    assert await again.store.take(9, first=True, asker="prompter/0") == ()
    assert await again.store.take(1, first=False, asker="prompter/0") == ((4, 5),)
    again.store.ledger.check()
    again.kill()


async def test_after_a_resume_nobody_takes_more_of_what_is_lost_than_it_wants(
    tmp_path: Path,
) -> None:
    """Nor is anything kept for a role that the resumed run lacks."""
    life = await Life(tmp_path).begin()
    assert await life.store.take(6, first=False, asker="gone/0") == ((0, 6),)
    await life.store.report((0, 1, 2), ())
    life.kill()
    again = await Life(tmp_path).begin()
    store = again.store
    assert await store.take(1, first=True, asker="collector/0") == ((0, 1),)
    assert await store.take(6, first=True, asker="prompter/0") == ((1, 6),)
    assert await store.take(6, first=True, asker="collector/0") == ((0, 1),)
    store.ledger.check()
    again.kill()


async def test_an_asker_that_wants_none_gives_back_what_it_had(tmp_path: Path) -> None:
    """A collector that died may never be asked again: its tickets held the others up for ever."""
    life = await Life(tmp_path).begin()
    store = life.store
    assert await store.take(2, first=False, asker="collector/0") == ((0, 2),)
    assert await store.take(9, first=False, asker="prompter/0") == ((2, 6),)
    assert await store.take(9, first=False, asker="prompter/0") is None
    assert await store.take(0, first=True, asker="collector/0") == ()
    assert await store.take(9, first=False, asker="prompter/0") == ((0, 2),)
    assert await store.take(9, first=False, asker="prompter/0") is None
    store.ledger.check()
    life.kill()


async def test_nothing_is_issued_before_a_version_is_published(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    life.store.published = -1
    assert await life.store.take(4, first=False) is None
    assert await life.store.take(4, first=True) is None
    assert life.store.room() == 0
    life.kill()


async def test_after_a_rollback_useless_groups_are_answered_again_within_the_bound(
    tmp_path: Path,
) -> None:
    """Steps 1..4 are lost; what they wrote is too old by the time it would be trained."""
    life = await Life(tmp_path, "mask").begin()
    await life.four_steps()
    assert life.store.ledger.issued == 15
    life.kill()
    again = await Life(tmp_path, "mask").begin()
    ledger = again.store.ledger
    # six groups were written by v0.0 and can be trained at ages 0 and 1; the others count from it
    assert ledger.tickets(TicketState.BUFFERED) == list(range(6))
    assert ledger.tickets(TicketState.WAITING) == list(range(6, 15))
    assert await again.store.take(99, first=False) is None  # the bound is 6
    await again.step()
    assert await again.store.take(99, first=False) == ((6, 9),)
    await again.whole(6, again.store.version)
    again.kill()
    third = await Life(tmp_path, "mask").begin()
    third.store.ledger.check()
    assert third.store.ledger.issued == 15
    third.kill()


async def test_after_a_long_rollback_what_drivers_had_does_not_hold_up_what_waits(
    tmp_path: Path,
) -> None:
    """The newest tickets were leased, more than the bound wait before them, nobody has any."""
    life = await Life(tmp_path, "mask").begin()
    await life.four_steps()
    assert await life.store.take(9, first=False) == ((15, 18),)
    await life.store.report((15, 16, 17), ())
    life.kill()
    again = await Life(tmp_path, "mask").begin()
    store = again.store
    assert store.ledger.tickets(TicketState.WAITING) == list(range(6, 15))
    assert store.ledger.tickets(TicketState.LEASED) == [15, 16, 17]
    assert await store.take(6, first=True) == ()  # six whole groups fill the bound
    trained: list[int] = []
    while len(trained) < 18:
        while pairs := await store.take(6, first=False):
            for start, end in pairs:
                for ticket in range(start, end):
                    await again.whole(ticket, store.version)
        trained += await again.step() or pytest.fail("nothing goes out any more")
    assert trained == list(range(18))
    store.ledger.check()
    again.kill()


async def test_a_group_never_mixes_answers_to_two_questions(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    life.store.asks = "sums"
    life.save()
    await life.store.take(6, first=True)
    await life.store.take(6, first=False)
    await life.store.arrived(scored(0, 0))
    await life.store.arrived(closed(0, 5))  # five answers a ticket, then
    await life.whole(1)
    life.kill()

    async def again(asks: str) -> tuple[Life, int]:
        made = Life(tmp_path)
        made.journal.open()
        found = made.checkpoints.newest(made.notices.append)
        assert found is not None
        made.store.rebuild(found)
        made.store.asks = asks
        meta = read_meta(found)
        assert meta.asks == "sums"
        return made, await made.store.resume(meta.version, meta.asks)

    same, count = await again("sums")
    assert (count, same.store.assembly.partial()) == (0, {0: 1})
    same.kill()
    for _ in range(2):
        other, count = await again("products")
        assert other.store.assembly.whole(1) is not None
        assert other.store.assembly.partial() == {}
        other.kill()
    assert count == 0  # what was forgotten stays so
    other, _ = await again("products")
    await other.whole(0)
    assert other.store.assembly.whole(0) is not None
    other.kill()


async def test_with_over_age_allowed_nothing_is_answered_again(tmp_path: Path) -> None:
    life = await Life(tmp_path, "allow").begin()
    for _ in range(3):
        while pairs := await life.store.take(9, first=False):
            for ticket in range(*pairs[0]):
                await life.whole(ticket, life.store.version)
        await life.step()
    life.kill()
    again = await Life(tmp_path, "allow").begin()
    assert again.store.ledger.counts()["buffered"] == 12
    again.kill()


async def test_hold_takes_tickets_in_order_so_that_none_gets_old(tmp_path: Path) -> None:
    """Late ones are waited for, and every token is at most max_age old, whatever the order."""
    rng = random.Random(4)
    life = await Life(tmp_path, "hold").begin()
    late: dict[int, Version] = {}
    trained: list[int] = []
    while life.store.step < 30:
        pairs = await life.store.take(100, first=False)
        for start, end in pairs or ():
            late.update(dict.fromkeys(range(start, end), life.store.version))
        ticket = rng.choice(sorted(late))
        await life.whole(ticket, late.pop(ticket))
        if rng.random() < 0.2 and late:
            await life.store.report((), [(late.popitem()[0], "cannot be asked")])
        groups = life.store.batch_ready()
        held = life.store.held_by()
        assert (held is None) == (groups is not None) or life.store.assembly.ready < 3
        if groups is None:
            continue
        ages = [life.store.lineage.age(s.version, life.store.version)
                for g in groups for s in g.scored[0].rollout.segments[0].spans]  # fmt: skip
        assert max(ages) <= life.policy.max_age
        trained += await life.step() or ()
    assert trained == sorted(trained)


@pytest.mark.parametrize("way", ["requeue", "drop"])
async def test_groups_that_come_too_late_go_out_again_or_away(tmp_path: Path, way: str) -> None:
    life = await Life(tmp_path, way).begin()
    first = life.store.version
    assert await life.store.take(6, first=False) == ((0, 6),)
    for ticket in (1, 2, 3):
        await life.whole(ticket, first)
    assert await life.step() == (1, 2, 3)
    assert await life.store.take(9, first=False) == ((6, 9),)
    for ticket in (4, 5, 6):
        await life.whole(ticket, life.store.version)
    assert await life.step() == (4, 5, 6)
    for ticket in (0, 7, 8):
        await life.whole(ticket, first if ticket == 0 else life.store.version)
    groups = life.store.batch_ready()
    assert groups is not None
    assert await life.store.retire(groups) == 1  # ticket 0 is two versions old, one is allowed
    assert life.store.batch_ready() is None
    if way == "drop":
        assert life.state(0) is TicketState.DROPPED
        assert life.store.ledger.notes[-1][2].startswith("a token is older than 1 versions")
        return
    assert life.state(0) is TicketState.WAITING
    assert await life.store.take(1, first=False) == ((0, 1),)
    life.kill()
    life = await Life(tmp_path, way).begin()  # that it went out again is durable
    assert life.store.assembly.whole(0) is None


async def test_a_ticket_that_is_always_late_does_not_go_round_for_ever(tmp_path: Path) -> None:
    life = await Life(tmp_path, "requeue").begin()
    old = life.store.version
    assert await life.store.take(6, first=False) == ((0, 6),)
    for start in (0, 3):
        for ticket in range(start, start + 3):
            await life.whole(ticket, life.store.version)
        assert await life.step() is not None
        await life.store.take(3, first=False)
    for retired in (3, 3, 0):
        for ticket in (6, 7, 8):
            await life.whole(ticket, old)
        groups = life.store.batch_ready()
        assert groups is not None
        assert await life.store.retire(groups) == retired
    assert life.store.lateness.requeued == 6
    assert await life.step() == (6, 7, 8)


async def test_a_dropped_batch_stays_dropped_after_a_kill(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    await life.store.take(6, first=False)
    for ticket in range(4):
        await life.whole(ticket)
    groups = life.store.batch_ready()
    assert groups is not None
    await life.store.begin_step(groups)
    await life.store.dropped(groups, "loss nan")
    life.kill()
    again = await Life(tmp_path).begin()
    assert again.store.ledger.tickets(TicketState.DROPPED) == [0, 1, 2]
    assert again.store.batch_ready() is None
    assert again.store.room() == 5  # two with nobody, three given back
    again.kill()


async def test_hopeless_groups_and_foreign_tickets(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    await life.store.take(2, first=False)
    await life.store.arrived(closed(0, 0, "prompt too long"))
    assert life.state(0) is TicketState.SET_ASIDE
    assert life.store.ledger.notes[0] == (0, "set_aside", "prompt too long")
    with pytest.raises(IllegalMove, match="ticket 7 of p was never issued"):
        await life.store.arrived(closed(7))
    await life.store.report((0, 1), [(0, "late"), (1, "poison")])
    assert life.state(1) is TicketState.SET_ASIDE
    life.kill()
    again = await Life(tmp_path).begin()
    assert again.store.ledger.counts()["set_aside"] == 2
    again.kill()


async def test_a_full_disk_delays_the_acknowledgement_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def full(error: JournalFull) -> None:
        told.append(str(error))
        if len(told) == 3:
            monkeypatch.setattr(Journal, "_commit", real)

    real = Journal._commit
    life = await Life(tmp_path).begin()
    life.store = Store("p", life.policy, life.journal, full)
    life.store.published = 0

    def no_room(journal: Journal) -> None:
        raise JournalFull("no room")

    monkeypatch.setattr(Journal, "_commit", no_room)
    assert await life.store.take(3, first=False) == ((0, 3),)
    assert told == ["no room"] * 3
    assert Journal._commit is real
    life.kill()
    again = await Life(tmp_path).begin()
    assert again.store.ledger.issued == 3
    again.kill()


async def test_a_journal_without_its_checkpoints_is_refused(tmp_path: Path) -> None:
    life = await Life(tmp_path).begin()
    await life.store.take(3, first=False)
    life.kill()
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="there is no checkpoint that they follow"):
        await Life(tmp_path).begin()


async def test_a_damaged_checkpoint_costs_steps_but_no_ticket(tmp_path: Path) -> None:
    """The journal reaches back to the oldest checkpoint that is kept."""
    life = await Life(tmp_path).begin()
    for _ in range(4):
        while pairs := await life.store.take(9, first=False):
            for ticket in range(*pairs[0]):
                await life.whole(ticket)
        await life.step()
        life.save()
        await life.trim()
    life.kill()
    assert not (tmp_path / "journal" / "000001.log").exists()
    (tmp_path / "checkpoints" / "step_000004" / "ledger.msgpack").write_bytes(b"")
    again = await Life(tmp_path).begin()
    assert again.store.step == 3
    counts = again.store.ledger.counts()
    assert (counts["issued"], counts["trained"], counts["buffered"]) == (15, 9, 6)
    assert await again.step() == (9, 10, 11)
    again.kill()


# ------------------------------------------------------------ what a curriculum is told


def when_able(ticket: int, sizes: dict[str, int], rewards: dict[str, float]) -> dict[str, float]:
    """Hard problems come as easy ones are solved."""
    return {"easy": 1.0, "hard": 4.0 * rewards.get("easy", 0.0)}


def curriculum(store: Store, known: int) -> Curriculum:
    made = Curriculum(when_able, {"easy": 0, "hard": 0}, 0, "curriculum")
    made.learn(store.standings.history[:known])
    return made


@pytest.mark.parametrize("seed", range(8))
async def test_a_ticket_asks_the_same_in_every_life_whatever_was_learnt_since(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)

    async def begin() -> Life:
        life = Life(tmp_path)
        life.policy = life.store.policy = msgspec.structs.replace(life.policy, curriculum="x:y")
        return await life.begin()

    life = await begin()
    prompter, dealt, first = curriculum(life.store, 0), {}, True
    waiting: list[int] = []
    for _ in range(400):
        act = rng.choice(
            ["take", "take", "answer", "answer", "answer", "step", "save", "kill", "prompter"]
        )
        if act == "take":
            pairs = await life.store.take(rng.randint(1, 3), first=first)
            first = first and pairs is None
            prompter.learn(life.store.standings.history[prompter.num_standings :])
            for ticket in (t for start, end in pairs or () for t in range(start, end)):
                asked = prompter(ticket)
                assert dealt.setdefault(ticket, asked) == asked, "it was dealt something else"
                waiting.append(ticket)
        elif act == "answer" and waiting:
            ticket = waiting.pop(rng.randrange(len(waiting)))
            able = min(1.0, ticket / 40)  # the policy gets better
            for sample in range(GROUP):
                task = dealt[ticket].task
                await life.store.arrived(scored(ticket, sample, None, task, able))
            await life.store.arrived(closed(ticket))
        elif act == "step":
            await life.step()
        elif act == "save":
            life.save()
            await life.trim()
        elif act == "kill":
            history = list(life.store.standings.history)
            life.kill()
            life = await begin()
            assert life.store.standings.history == history, "as durable as the tickets"
            first, waiting = True, []
        elif act == "prompter":
            prompter, first, waiting = curriculum(life.store, 0), True, []
    whole = curriculum(life.store, len(life.store.standings.history))
    assert {ticket: whole(ticket) for ticket in sorted(dealt)} == dealt
    assert len(life.store.standings.history) > 3, "there was something to be told"
    assert {choice.task for choice in dealt.values()} == {"easy", "hard"}


async def test_standings_are_kept_for_curricula_only_and_once_a_version(tmp_path: Path) -> None:
    life = await Life(tmp_path / "plain").begin()
    for _ in range(3):
        pairs = await life.store.take(2, first=False)
        for ticket in (t for start, end in pairs or () for t in range(start, end)):
            await life.whole(ticket)
        await life.step()
    assert life.store.standings.history == []
    assert "standings.msgpack" not in life.store.snapshot()
    store = life.store
    store.policy = msgspec.structs.replace(store.policy, curriculum="x:y")
    start = store.ledger.issued
    assert await store.take(1, first=False)
    await life.whole(start)
    assert await store.take(1, first=False)
    assert [(s.first, s.rewards) for s in store.standings.history] == [(start, {"t": 1.0})]
