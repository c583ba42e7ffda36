"""The ledger balances whatever happens, the bound holds, and ages count from the fork."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from realnet.errors import CheckpointError
from realnet.roles.ledger import (
    IllegalMove,
    Intervals,
    Ledger,
    LedgerUnbalanced,
    Lineage,
    TicketState,
)
from realnet.roles.messages import Version


def version(branch: int, number: int) -> Version:
    return Version(policy="p", branch=branch, number=number)


def full(batch: int = 4, max_age: int = 1) -> Ledger:
    ledger = Ledger("p", batch=batch, max_age=max_age)
    ledger.issue(10**6, 0)
    return ledger


@pytest.mark.parametrize("seed", range(20))
def test_intervals_equal_a_set_of_numbers(seed: int) -> None:
    rng = random.Random(seed)
    made, model = Intervals(), set[int]()
    for _ in range(60):
        start = rng.randrange(80)
        end = start + rng.randrange(6)
        made.add_range(start, end)
        model.update(range(start, end))
        assert sorted(model) == list(made)
        assert len(model) == len(made)
    assert all((n in made) == (n in model) for n in range(-1, 90))
    pairs = made.pairs()
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(pairs))
    assert Intervals(pairs) == made


def test_issue_stops_at_the_bound_and_starts_again_when_room_comes_back() -> None:
    ledger = Ledger("p", batch=4, max_age=1)
    assert ledger.issue(3, 0) == ((0, 3),)
    assert ledger.issue(100, 0) == ((3, 8),)
    assert ledger.issue(100, 0) == ()
    ledger.set_aside(2, "poison")
    ledger.drop(5, "stale")
    assert ledger.issue(100, 0) == ((8, 10),)
    assert ledger.outstanding() == ((0, 2), (3, 5), (6, 10))


def test_age_zero_is_exactly_synchronous() -> None:
    """The next tickets come only when the step is taken and its version published."""
    ledger = full(batch=3, max_age=0)
    for ticket in range(3):
        ledger.buffer(ticket)
    assert ledger.room(0) == 0  # buffered tickets hold their room during the step
    ledger.train([0, 1, 2])
    assert ledger.room(0) == 0  # trained, but generators would still use the version before
    assert ledger.room(1) == 3
    assert ledger.issue(9, 1) == ((3, 6),)


def test_with_age_one_a_step_gives_back_one_batch_when_published() -> None:
    ledger = full(batch=3, max_age=1)
    for ticket in range(3):
        ledger.buffer(ticket)
    ledger.train([0, 1, 2])
    assert (ledger.room(0), ledger.room(1)) == (0, 3)


@pytest.mark.parametrize("seed", range(30))
def test_bound_and_balance_hold_under_any_history(seed: int) -> None:
    rng = random.Random(seed)
    batch, max_age = rng.randrange(1, 6), rng.randrange(0, 4)
    ledger = Ledger("p", batch=batch, max_age=max_age)
    published, trained = 0, Counter[int]()
    for _ in range(400):
        open_ = [t for s in ("waiting", "leased") for t in ledger.tickets(TicketState(s))]
        ready = ledger.tickets(TicketState.BUFFERED)
        move = rng.choice(
            ["issue", "hand", "buffer", "buffer", "train", "aside", "drop", "requeue", "restore"]
        )
        if move == "issue":
            ledger.issue(rng.randrange(8), published)
        elif move == "train" and len(ready) >= batch:
            size = rng.randrange(1, batch + 1)
            ledger.train(ready[:size])
            trained.update(ready[:size])
        elif move == "requeue" and ready:
            ledger.requeue(rng.choice(ready))
        elif move == "restore":
            ledger = Ledger.restore(ledger.snapshot())
        elif move in ("aside", "drop") and open_ + ready:
            end = ledger.set_aside if move == "aside" else ledger.drop
            end(rng.choice(open_ + ready), f"reason {rng.randrange(3)}")
        elif open_ and move in ("hand", "buffer"):
            ticket = rng.choice(open_)
            ledger.hand([ticket, ticket]) if move == "hand" else ledger.buffer(ticket)
        published += rng.random() < 0.5 and published < ledger.steps
        counts = ledger.counts()
        out = counts["waiting"] + counts["leased"] + counts["buffered"]
        assert out <= (max_age + 1) * batch
        assert sum(counts.values()) == 2 * counts["issued"]
        ledger.check()
    assert trained == Counter(ledger.tickets(TicketState.TRAINED))
    ended = [*ledger.reasons[TicketState.SET_ASIDE].values()]
    assert sum(ended) == ledger.counts()["set_aside"]


def test_moves_that_redelivery_repeats_change_nothing() -> None:
    ledger = full()
    for _ in range(2):
        ledger.hand([0, 1])
        ledger.buffer(1)
        ledger.set_aside(2, "poison")
        ledger.drop(3, "stale")
    ledger.train([1])
    ledger.hand([1, 2, 3])  # late reports
    counts = ledger.counts()
    assert counts == {
        "issued": 8, "waiting": 4, "leased": 1, "buffered": 0,
        "trained": 1, "set_aside": 1, "dropped": 1,
    }  # fmt: skip
    assert ledger.reasons[TicketState.SET_ASIDE] == {"poison": 1}
    assert list(ledger.notes) == [(2, "set_aside", "poison"), (3, "dropped", "stale")]
    assert "8 tickets issued = 4 waiting + 1 leased" in ledger.line()


def test_illegal_moves_name_the_ticket_and_both_states() -> None:
    ledger = full()
    ledger.buffer(0)
    ledger.train([0])
    with pytest.raises(IllegalMove, match="ticket 0 of p cannot go from trained to trained"):
        ledger.train([0])
    with pytest.raises(IllegalMove, match="ticket 0 of p cannot go from trained to set_aside"):
        ledger.set_aside(0, "late")
    with pytest.raises(IllegalMove, match=r"ticket 0 .* trained to buffered"):
        ledger.buffer(0)
    with pytest.raises(IllegalMove, match=r"ticket 1 .* waiting to trained"):
        ledger.train([1])
    with pytest.raises(IllegalMove, match="ticket 99 of p was never issued"):
        ledger.hand([99])
    with pytest.raises(IllegalMove, match="twice"):
        ledger.train([1, 1])
    with pytest.raises(IllegalMove, match=r"tickets 20\.\.20 .* 8 is next"):
        ledger.admit(20, 21)
    ledger.check()


def test_a_step_that_cannot_be_taken_whole_moves_nothing() -> None:
    ledger = full()
    ledger.buffer(0)
    with pytest.raises(IllegalMove):
        ledger.train([0, 1])
    assert ledger.state(0) is TicketState.BUFFERED
    assert ledger.steps == 0


def test_check_notices_a_ticket_that_no_event_moved() -> None:
    ledger = full()
    ledger._open[0] = TicketState.BUFFERED
    with pytest.raises(LedgerUnbalanced, match="does not balance"):
        ledger.check()
    other = full()
    del other._open[3]
    with pytest.raises(LedgerUnbalanced, match="8 issued, 7 found"):
        other.check()


def test_a_restored_ledger_takes_another_bound_and_refuses_damage() -> None:
    ledger = full(batch=4, max_age=1)
    smaller = Ledger.restore(ledger.snapshot(), batch=2, max_age=0)
    assert (smaller.bound, smaller.room(0), smaller.out) == (2, 0, 8)
    with pytest.raises(CheckpointError, match="ledger does not read"):
        Ledger.restore(ledger.snapshot()[:-3])
    with pytest.raises(CheckpointError, match="lineage does not read"):
        Lineage.restore(b"\xc1")


def test_reasons_are_bounded() -> None:
    ledger = Ledger("p", batch=5000, max_age=0)
    ledger.issue(5000, 0)
    for ticket in range(5000):
        ledger.drop(ticket, f"reason {ticket}")
    assert sum(ledger.reasons[TicketState.DROPPED].values()) == 5000
    assert len(ledger.reasons[TicketState.DROPPED]) <= 201
    assert len(ledger.notes) == 1000


def test_age_on_one_branch_is_the_distance() -> None:
    lineage = Lineage("p")
    assert lineage.age(version(0, 7), version(0, 9)) == 2
    assert lineage.age(version(0, 9), version(0, 9)) == 0


def test_age_of_an_abandoned_branch_counts_from_the_fork() -> None:
    lineage = Lineage("p")
    assert lineage.resume(version(0, 40)) == 1
    assert lineage.age(version(0, 39), version(1, 41)) == 2  # an ancestor: the real distance
    assert lineage.age(version(0, 47), version(1, 41)) == 1  # abandoned: from v0.40
    assert lineage.age(version(0, 47), version(1, 40)) == 0
    assert lineage.abandoned(version(0, 41), version(1, 40))
    assert not lineage.abandoned(version(0, 40), version(1, 40))


def test_branches_that_fork_at_one_checkpoint_are_told_apart() -> None:
    lineage = Lineage("p")
    assert lineage.resume(version(0, 40)) == 1
    assert lineage.resume(version(0, 40)) == 2  # branch 1 saved nothing before it died
    assert lineage.resume(version(2, 60)) == 3
    assert lineage.age(version(1, 55), version(3, 61)) == 21  # parted at v0.40
    assert lineage.age(version(2, 70), version(3, 61)) == 1
    again = Lineage.restore(lineage.snapshot())
    assert again.age(version(1, 55), version(3, 61)) == 21
    assert again.resume(version(3, 61)) == 4
    with pytest.raises(CheckpointError, match="branch 2 of p forks at"):
        again.record(2, 1, 3)
