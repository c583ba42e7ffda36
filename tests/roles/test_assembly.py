"""Groups become whole in any order of arrival, once, oldest first."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from realnet.errors import RealnetError
from realnet.roles.messages import Group, GroupClosed, Rollout, SampleKey, Scored, TicketKey
from realnet.roles.trainer.assembly import Assembly, Hopeless


def scored(ticket: int, sample: int, reward: float | None = 1.0, text: str = "4") -> Scored:
    key = SampleKey(TicketKey("p", ticket), sample)
    rollout = Rollout(key, "t", "2+2=", text, "4", (), "stop")
    return Scored(rollout, reward, fault="" if reward is not None else "crashed")


def closed(ticket: int, samples: int, reason: str = "") -> GroupClosed:
    return GroupClosed(TicketKey("p", ticket), samples, reason)


def assembly(ended: set[int] | None = None) -> Assembly:
    done = ended if ended is not None else set()
    return Assembly("p", lambda ticket: ticket not in done)


def feed(made: Assembly, item: Scored | GroupClosed) -> Group | Hopeless | None:
    return made.close(item) if isinstance(item, GroupClosed) else made.add(item)


def test_every_order_of_arrival_gives_the_same_group_at_its_last_item() -> None:
    items = [scored(0, 0), scored(0, 1, 0.0), scored(0, 2, None), closed(0, 3)]
    results = set()
    for order in itertools.permutations(items):
        made = assembly()
        got = [feed(made, item) for item in order]
        assert got[:3] == [None] * 3
        assert isinstance(got[3], Group)
        results.add(tuple(s.rollout.key.sample for s in got[3].scored))
        assert made.ready == 1
    assert results == {(0, 1, 2)}


@pytest.mark.parametrize("seed", range(10))
def test_redelivery_changes_nothing_and_the_first_copy_wins(seed: int) -> None:
    rng = random.Random(seed)
    items: list[Scored | GroupClosed] = []
    for ticket in range(6):
        items += [scored(ticket, n, text="first") for n in range(4)] + [closed(ticket, 4)]
    rng.shuffle(items)
    again = [
        scored(i.rollout.key.ticket.ticket, i.rollout.key.sample, text="second")
        if isinstance(i, Scored)
        else i
        for i in items
    ]
    stream = items[:]
    for item in again:  # a copy comes any time after the first one
        first = next(n for n, i in enumerate(stream) if _same(i, item))
        stream.insert(rng.randrange(first + 1, len(stream) + 1), item)
    made = assembly()
    whole = [got for item in stream if isinstance(got := feed(made, item), Group)]
    assert sorted(g.key.ticket for g in whole) == list(range(6))
    assert {s.rollout.text for g in whole for s in g.scored} == {"first"}
    assert made.duplicates == 30
    assert made.partial() == {}


def _same(a: Scored | GroupClosed, b: Scored | GroupClosed) -> bool:
    if isinstance(a, GroupClosed) or isinstance(b, GroupClosed):
        return type(a) is type(b) and a.key == b.key  # type: ignore[union-attr]
    return a.rollout.key == b.rollout.key


def test_oldest_first_until_forgotten() -> None:
    made = assembly()
    for ticket in (5, 2, 9):
        made.add(scored(ticket, 0))
        made.close(closed(ticket, 1))
    assert [g.key.ticket for g in made.oldest(2)] == [2, 5]
    made.forget(2)
    assert [g.key.ticket for g in made.oldest(2)] == [5, 9]
    assert made.whole(2) is None


def test_what_comes_for_an_ended_ticket_is_a_duplicate() -> None:
    made = assembly({3})
    assert made.add(scored(3, 0)) is None
    assert made.close(closed(3, 1)) is None
    assert made.duplicates == 2
    assert made.ready == 0


def test_unjudged_samples_count_as_present() -> None:
    made = assembly()
    made.close(closed(0, 2))
    made.add(scored(0, 0, None))
    got = made.add(scored(0, 1, 0.0))
    assert isinstance(got, Group)
    assert [s.reward for s in got.scored] == [None, 0.0]


def test_a_group_without_any_judgement_is_hopeless_and_says_why() -> None:
    made = assembly()
    made.add(scored(0, 0, None))
    made.add(scored(0, 1, None))
    assert made.close(closed(0, 2)) == Hopeless(0, "no sample could be judged: crashed (2 of 2)")
    assert made.close(closed(1, 0, "prompt too long")) == Hopeless(1, "prompt too long")
    assert made.ready == 0


@pytest.mark.parametrize("late", [False, True])
def test_answers_of_a_ticket_that_was_given_up_are_no_group(late: bool) -> None:
    made = assembly()
    items: list[Scored | GroupClosed] = [scored(0, 0), scored(0, 1)]
    items.insert(0 if late else 2, closed(0, 0, "its drivers died 3 times"))
    got = [g for g in (feed(made, item) for item in items) if g is not None]
    assert got[0] == Hopeless(0, "its drivers died 3 times")
    assert made.ready == 0


def test_a_group_may_close_with_fewer_samples_than_asked() -> None:
    made = assembly()
    for n in (0, 3):
        made.add(scored(0, n))
    assert made.partial() == {0: 2}
    assert isinstance(made.close(closed(0, 2)), Group)


def test_a_ticket_of_another_policy_is_refused() -> None:
    made = assembly()
    with pytest.raises(RealnetError, match="q/0 came to the trainer of p"):
        made.close(GroupClosed(TicketKey("q", 0), 1))
    with pytest.raises(RealnetError, match="takes those that it issued"):
        made.close(GroupClosed(TicketKey("p", 0, "eval:t:v3"), 1))


def test_a_derived_ticket_that_asked_two_things_is_the_group_that_is_whole_first() -> None:
    """Its prompter died and issued the number again, about something else."""

    def answer(parent: str, sample: int) -> Scored:
        one = scored(0, sample)
        key = SampleKey(TicketKey("p", 0, parent), sample)
        return Scored(msgspec.structs.replace(one.rollout, key=key), 1.0)

    made = assembly()
    assert made.add(answer("q/1#0", 0)) is None
    assert made.add(answer("q/2#0", 0)) is None
    assert made.add(answer("q/2#0", 1)) is None
    assert made.partial() == {0: 2}
    assert made.add(answer("q/1#0", 1)) is None
    group = made.close(GroupClosed(TicketKey("p", 0, "q/2#0"), 2))
    assert isinstance(group, Group)
    assert {s.rollout.key.ticket.parent for s in group.scored} == {"q/2#0"}
    assert made.close(GroupClosed(TicketKey("p", 0, "q/1#0"), 2)) is None
    assert made.duplicates == 1
    made.forget(0)
    assert (made.ready, made.partial()) == (0, {})
