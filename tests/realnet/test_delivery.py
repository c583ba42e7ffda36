"""Share wires against a model: deaths, joins, leases that run out, sizes, affinity, feedback.

The real Producer and Consumer, joined by queues that keep order and lose what a dead one had. What
must hold is looked at after every step: no window is exceeded, in items or bytes, and every grant
is somewhere: at the producer, on its way, or used.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from realnet.affinity import End, Homes
from realnet.custody import Consumer, GrantTo
from realnet.delivery import TICKS, UNTOLD_LEASE_S, Announce, Done, Producer, Send

LEASE_S = 10.0


def end(name: str) -> End:
    return name, "port"


class Net:
    """Producers and consumers of one wire, links with order, anything at any moment."""

    def __init__(self, seed: int, *, lease_s: float = 0.0):
        self.rng = random.Random(seed)
        self.lease_s = lease_s
        self.now_s = 0.0
        self.links: dict[tuple[End, End], deque[Any]] = {}
        self.producers: dict[End, Producer] = {}
        self.consumers: dict[End, Consumer] = {}
        self.feedback: set[End] = set()
        self.offered: dict[str, tuple[int, str]] = {}  # key -> size, affinity
        self.keys: dict[tuple[End, int], str] = {}
        self.open: dict[End, dict[str, None]] = {}  # by producer: what it must see done
        self.in_work: dict[End, list[str]] = {}
        self.stuck: dict[End, set[str]] = {}  # handlers that do not move for now
        self.durable: dict[str, int] = {}  # key -> times its handler finished
        self.taken_by: dict[tuple[End, str], End] = {}  # (producer, affinity) -> where it went
        self.moved: list[str] = []
        self.next = 0

    # ------------------------------------------------------------ members come and go

    def add_producer(self, name: str, *, feedback: bool = False) -> End:
        p = end(name)
        self.producers[p] = Producer()
        self.open[p] = {}
        if feedback:
            self.feedback.add(p)
        for c in self.consumers:
            self._join(p, c)
        return p

    def add_consumer(self, name: str, window: int, window_bytes: int, reserve: int = 0) -> End:
        c = end(name)
        self.consumers[c] = Consumer(window, window_bytes, reserve=reserve)
        self.in_work[c], self.stuck[c] = [], set()
        for p in self.producers:
            self._join(p, c)
        return c

    def _join(self, p: End, c: End) -> None:
        self.links[p, c], self.links[c, p] = deque(), deque()
        self.producers[p].consumer_up(c)
        self.consumers[c].producer_up(p, feedback=p in self.feedback)

    def kill_consumer(self, c: End) -> None:
        del self.consumers[c], self.in_work[c], self.stuck[c]
        for where in [where for where, taker in self.taken_by.items() if taker == c]:
            del self.taken_by[where]
        for p, producer in self.producers.items():
            del self.links[p, c], self.links[c, p]
            self.sent(p, producer.consumer_down(c))

    def kill_producer(self, p: End, name: str) -> None:
        """It dies; its next life offers again what it does not know to be done."""
        del self.producers[p]
        for where in [where for where in self.taken_by if where[0] == p]:
            del self.taken_by[where]
        for c, consumer in self.consumers.items():
            del self.links[p, c], self.links[c, p]
            consumer.producer_down(p)
        again = self.add_producer(name, feedback=p in self.feedback)
        for key in self.open.pop(p):
            self.offer(again, key, *self.offered[key])

    # ------------------------------------------------------------ work

    def offer(self, p: End, key: str, size: int = 0, affinity: str = "") -> None:
        self.next += 1
        self.offered[key] = size, affinity
        self.keys[p, self.next] = key
        self.open[p][key] = None
        self.sent(p, self.producers[p].offer(self.next, size, affinity))

    def sent(self, p: End, effects: list[Send]) -> None:
        for e in effects:
            key = self.keys[p, e.item]
            size, affinity = self.offered[key]
            self.links[p, e.consumer].append(("item", e.item, key, size, e.spent))
            if affinity:
                before = self.taken_by.setdefault((p, affinity), e.consumer)
                if before != e.consumer:
                    self.moved.append(f"{affinity} went to {before}, then to {e.consumer}")

    def finish(self, c: End, key: str) -> None:
        self.in_work[c].remove(key)
        self.stuck[c].discard(key)
        self.durable[key] = self.durable.get(key, 0) + 1
        for a in self.consumers[c].finish(key, None):
            self.links[c, a.producer].append(("ack", a.item))

    def step(self) -> bool:
        self.turn()
        self.look()
        moves = [k for k, q in self.links.items() if q]
        works = [c for c, w in self.in_work.items() if set(w) - self.stuck[c]]
        if not moves and not works:
            return False
        if works and (not moves or self.rng.random() < 0.3):
            c = self.rng.choice(works)
            self.finish(c, self.rng.choice([k for k in self.in_work[c] if k not in self.stuck[c]]))
            return True
        sender, receiver = self.rng.choice(moves)
        what = self.links[sender, receiver].popleft()
        if receiver in self.consumers:
            self.at_consumer(sender, receiver, what)
        else:
            self.at_producer(sender, receiver, what)
        return True

    def turn(self) -> None:
        for p, producer in self.producers.items():
            for a in producer.announce():
                assert isinstance(a, Announce)
                self.links[p, a.consumer].append(("backlog", *a[1:]))
        for c, consumer in self.consumers.items():
            for g in consumer.grants():
                assert isinstance(g, GrantTo)
                self.links[c, g.producer].append(("grant", g.room, g.num_bytes))

    def at_consumer(self, p: End, c: End, what: Any) -> None:
        consumer = self.consumers[c]
        if what[0] == "backlog":
            consumer.backlog(p, *what[1:])
            return
        accepted = consumer.item(p, *what[1:])
        for a in accepted.acks:
            self.links[c, a.producer].append(("ack", a.item))
        if accepted.fresh:
            self.in_work[c].append(what[2])

    def at_producer(self, c: End, p: End, what: Any) -> None:
        producer = self.producers[p]
        if what[0] == "grant":
            self.sent(p, producer.grant(c, what[1], what[2], self.lease_s))
        elif what[0] == "working":
            producer.renew(c, what[1])
        else:
            for d in producer.ack(c, (what[1],), None):
                assert isinstance(d, Done)
                self.open[p].pop(self.keys[p, d.item])

    def time_passes(self, seconds: float) -> None:
        """Handlers tell of progress, except for those that are stuck; producers look at leases."""
        self.now_s += seconds
        for c, consumer in self.consumers.items():
            for w in consumer.working(self.stuck[c]):
                self.links[c, w.producer].append(("working", w.idle))
        for p, producer in self.producers.items():
            self.sent(p, producer.tick(self.now_s))

    # ------------------------------------------------------------ what must always hold

    def look(self) -> None:
        for c, consumer in self.consumers.items():
            sizes = [self.offered[k][0] for k in consumer._in_hand]
            assert consumer.in_hand_bytes == sum(sizes)
            granted = consumer.granted()
            assert len(sizes) + sum(n for n, _ in granted.values()) <= consumer.window
            ordinary = [
                self.offered[k][0]
                for k, held in consumer._in_hand.items()
                if held.of is consumer._ordinary
            ]
            assert len(ordinary) <= consumer.window - consumer.reserve
            if sum(sizes) > consumer.window_bytes:  # one that is too large, alone in its class
                large = [s for s in sizes if s > consumer.window_bytes // consumer.window]
                assert large
                assert len(ordinary) <= 1 or len(sizes) - len(ordinary) == 1
            for p, producer in self.producers.items():
                member = producer._members[c]
                out, back = self.links[p, c], self.links[c, p]
                num = member.credit + sum(w[1] for w in back if w[0] == "grant")
                num += sum(w[2] for w in out if w[0] == "backlog")
                num += sum(w[0] == "item" for w in out)
                num_bytes = member.credit_bytes + sum(w[2] for w in back if w[0] == "grant")
                num_bytes += sum(w[4] for w in out if w[0] == "backlog")
                num_bytes += sum(w[4] for w in out if w[0] == "item")
                assert granted[p] == (num, num_bytes), f"{p} -> {c}: a grant was lost or made up"

    def until_rest(self, most: int = 100_000) -> None:
        steps = 0
        while self.step():
            steps += 1
            assert steps < most, "it never comes to rest"

    def look_at_the_end(self) -> None:
        assert set(self.durable) == set(self.offered)
        assert not any(self.open.values())
        for producer in self.producers.values():
            assert (producer.waiting, producer.leased) == (0, 0)
        for consumer in self.consumers.values():
            assert (consumer.in_hand, consumer.in_hand_bytes) == (0, 0)
            assert set(consumer.granted().values()) <= {(0, 0)}
            for of in (consumer._ordinary, consumer._feedback):
                assert (of.count, of.num_bytes, of.hungry) == (0, 0, {})


def story(seed: int, *, lease_s: float) -> Net:
    """Everything at once, in an order that the seed draws."""
    print(f"seed {seed}")
    net = Net(seed, lease_s=lease_s)
    rng = net.rng
    bytes_of = rng.choice(((0, 0), (1, 1), (1, 40), (50, 200)))
    reserve = rng.choice((0, 0, 1))
    lives = 1

    def consumer() -> None:
        window = rng.randint(1, 5) + reserve
        net.add_consumer(f"c{rng.randint(0, 9)}~{lives}", window, rng.choice((1, 60, 400)), reserve)

    for i in range(rng.randint(1, 3)):
        net.add_producer(f"p{i}~1", feedback=bool(reserve) and i == 0)
    for i in range(rng.randint(0, 4)):
        lives += 1
        net.add_consumer(f"c{i}~{lives}", rng.randint(1, 5) + reserve, rng.choice((1, 60, 400)))
        list(net.consumers.values())[-1].reserve = reserve
    for n in range(rng.randint(20, 80)):
        affinity = rng.choice(("", "", "a", "b", "c"))
        net.offer(rng.choice(list(net.producers)), f"k{n}", rng.randint(*bytes_of), affinity)
        for _ in range(rng.randint(0, 8)):
            net.step()
        lives += 1
        what = rng.random()
        if what < 0.05 and net.consumers:
            net.kill_consumer(rng.choice(list(net.consumers)))
        if what < 0.1:
            consumer()
        elif what < 0.13:
            p = rng.choice(list(net.producers))
            net.kill_producer(p, f"{p[0].partition('~')[0]}~{lives}")
        elif what < 0.2 and lease_s:
            for c, work in net.in_work.items():
                net.stuck[c].update(rng.sample(work, min(1, len(work))))
        elif what < 0.5 and lease_s:
            net.time_passes(rng.choice((2.5, 2.5, 2.5, 30.0)))
    if not net.consumers:
        consumer()
    if lease_s and len(net.consumers) > 1:  # what is stuck at one member goes to another
        for _ in range(20):
            net.time_passes(2.5)
            for _ in range(40):
                net.step()
    for stuck in net.stuck.values():  # the late ones come to their end after all
        stuck.clear()
    net.until_rest()
    net.look_at_the_end()
    return net


@pytest.mark.parametrize("seed", range(120))
def test_nothing_lost_nothing_stuck_nothing_over(seed: int) -> None:
    net = story(seed, lease_s=0.0)
    assert not net.moved  # while a member lives, its related work is its own


@pytest.mark.parametrize("seed", range(60))
def test_leases_that_run_out(seed: int) -> None:
    story(seed + 1000, lease_s=LEASE_S)


@pytest.mark.parametrize("seed", range(10))
def test_without_deaths_each_item_is_handled_once(seed: int) -> None:
    net = Net(seed)
    p = net.add_producer("p0")
    for i in range(3):
        net.add_consumer(f"c{i}~1", 3, 100)
    for n in range(100):
        net.offer(p, f"k{n}", net.rng.randint(0, 120))
        net.step()
    net.until_rest()
    assert set(net.durable.values()) == {1}


def joined(window: int = 4, window_bytes: int = 100) -> tuple[Net, End, End]:
    net = Net(0, lease_s=LEASE_S)
    return net, net.add_producer("p~1"), net.add_consumer("c/0~1", window, window_bytes)


def test_same_key_from_a_restarted_producer_is_adopted() -> None:
    net, p, c = joined()
    net.offer(p, "k")
    while not net.in_work[c]:
        net.step()
    net.kill_producer(p, "p~2")
    for _ in range(20):
        net.turn()
        for (sender, receiver), link in list(net.links.items()):
            while link:
                there = net.at_consumer if receiver in net.consumers else net.at_producer
                there(sender, receiver, link.popleft())
    assert net.in_work[c] == ["k"]
    assert net.open[end("p~2")] == {"k": None}
    net.until_rest()
    net.look_at_the_end()
    assert net.durable == {"k": 1}


def test_attempts_count_deliveries() -> None:
    producer, first, second = Producer(), end("c~1"), end("c~2")
    producer.consumer_up(first)
    assert producer.offer(1) == []
    assert producer.grant(first, 1) == [Send(first, 1, 1, 0)]
    producer.consumer_up(second)
    assert producer.consumer_down(first) == []
    assert producer.grant(second, 1) == [Send(second, 1, 2, 0)]
    assert producer.ack(first, (1,), None) == []  # a late word
    assert producer.ack(second, (1,), "no") == [Done(1, "no")]


def test_an_item_larger_than_the_window_goes_when_nothing_else_is_in_hand() -> None:
    net, p, c = joined(window=4, window_bytes=100)
    for key, size in (("a", 60), ("big", 500), ("b", 60)):
        net.offer(p, key, size)
    seen: list[list[str]] = []
    while net.step():
        if not seen or seen[-1] != net.in_work[c]:
            seen.append(list(net.in_work[c]))
    assert ["big"] in seen
    assert all(work == ["big"] or "big" not in work for work in seen)
    net.look_at_the_end()


def test_large_items_do_not_starve_beside_small_ones() -> None:
    net, p, c = joined(window=10, window_bytes=100)
    q = net.add_producer("q~1")
    net.offer(p, "big", 100)
    for n in range(200):
        net.offer(q, f"small{n}", 10)
    while "big" not in net.durable:
        assert net.step()
        assert len(net.durable) < 50
    assert c in net.consumers


def test_related_items_wait_for_their_member_and_others_pass() -> None:
    producer, one, two = Producer(), end("c/0~1"), end("c/1~1")
    producer.consumer_up(one)
    producer.consumer_up(two)
    home = Homes().of("episode", [one, two])
    other = two if home == one else one
    producer.offer(1, 0, "episode")
    producer.offer(2)
    assert producer.grant(other, 5) == [Send(other, 2, 1, 0)]
    assert producer.announce() == [
        Announce(end, int(end == home), 4 * (end == other), 0, 0, 0) for end in (one, two)
    ]
    assert producer.grant(home, 1) == [Send(home, 1, 1, 0)]
    producer.offer(3, 0, "episode")
    assert [e[:2] for e in producer.announce()] == [(home, 1)]  # nobody else is told of it
    producer.consumer_down(home)
    assert [s[:3] for s in producer.grant(other, 5)] == [(other, 1, 2), (other, 3, 1)]


def test_a_member_that_joins_takes_over_no_key_that_is_in_use() -> None:
    homes, members = Homes(), [end("c/0~1"), end("c/1~1")]
    before = {f"k{i}": homes.of(f"k{i}", members) for i in range(50)}
    assert set(before.values()) == set(members)
    members.append(end("c/2~1"))
    assert {k: homes.of(k, members) for k in before} == before
    assert {homes.of(f"new{i}", members) for i in range(50)} == set(members)


def test_keys_that_are_not_used_are_forgotten() -> None:
    homes = Homes(remembered=10)
    for i in range(100):
        homes.of(f"k{i}", [end("c/0~1"), end("c/1~1")])
    assert len(homes) == 10


@pytest.mark.parametrize("other_told", [True, False])
def test_related_work_does_not_wait_for_a_member_that_has_no_room_from_its_first_moment(
    other_told: bool,
) -> None:
    """It is full of what another producer gave it, and stuck on that (the simulator found this)."""
    p, one, two = Producer(), end("c/0~1"), end("c/1~1")
    p.consumer_up(one)
    p.consumer_up(two)
    home = Homes().of("k", [one, two])
    other = two if home == one else one
    lease_s = 8.0 if other_told else UNTOLD_LEASE_S
    if other_told:  # what the others' leases are is known by then
        p.offer(1)
        assert [s.consumer for s in p.grant(other, 1, 100, lease_s)] == [other]
        p.ack(other, [1], None)
    p.offer(2, 10, "k")
    assert {a.consumer: a.waiting for a in p.announce()}[home] == 1
    assert p.tick_s == lease_s / TICKS
    now_s = 0.0
    while now_s <= lease_s + p.tick_s:
        p.tick(now_s)
        now_s += p.tick_s
    assert {a.consumer: a.waiting for a in p.announce()}[other] == 1
    assert [s.item for s in p.grant(other, 1, 100, 8.0)] == [2]


def test_related_work_leaves_a_stuck_member_though_the_other_was_stuck_once() -> None:
    """Who finished nothing since, because nothing came to it, was passed over for ever."""
    p, one, two = Producer(), end("c/0~1"), end("c/1~1")
    for consumer in (one, two):
        p.consumer_up(consumer)
        p.grant(consumer, 0, 0, 8.0)
    home = Homes().of("k", [one, two])
    p.offer(1, 10, "k")
    sat_at: list[End] = []
    for tick in range(60):  # nobody takes it: it goes from one to the other, who is told
        p.tick(tick * p.tick_s)
        sat_at += [a.consumer for a in p.announce() if a.waiting]
    assert sat_at[0] == home
    assert len(sat_at) >= 4, sat_at


def test_a_lease_without_progress_runs_out_and_the_first_copy_wins() -> None:
    net, p, slow = joined(window=1)
    net.offer(p, "k", 10)
    while not net.in_work[slow]:
        net.step()
    net.stuck[slow].add("k")
    for _ in range(10):  # nobody else is there: it stays where it is
        net.time_passes(2.5)
        while net.step():
            pass
    assert net.producers[p].leased == 1
    fast = net.add_consumer("c/1~1", 1, 100)
    for _ in range(2):
        net.time_passes(2.5)
        while net.step():
            pass
    assert net.durable == {"k": 1}
    assert not net.open[p]
    net.stuck[slow].clear()
    net.until_rest()
    net.look_at_the_end()
    assert fast in net.consumers


def test_who_lost_its_lease_may_still_be_first() -> None:
    producer, slow, other = Producer(), end("c/0~1"), end("c/1~1")
    for c in (slow, other):
        producer.consumer_up(c)
    producer.offer(1)
    producer.grant(slow, 1, 0, LEASE_S)
    for now_s in (0.0, 4.0, 8.0, 12.0):
        assert producer.tick(now_s) == []
    assert producer.waiting == 1
    assert producer.ack(slow, (1,), None) == [Done(1, None)]
    assert (producer.waiting, producer.leased) == (0, 0)
    assert producer.grant(other, 1) == []


def test_progress_renews_a_lease_and_a_sleep_counts_against_nobody() -> None:
    producer, slow, other = Producer(), end("c/0~1"), end("c/1~1")
    for c in (slow, other):
        producer.consumer_up(c)
    producer.offer(1)
    producer.grant(slow, 1, 0, LEASE_S)
    now_s = 0.0
    for _ in range(40):
        now_s += producer.tick_s
        assert producer.tick(now_s) == []
        producer.renew(slow, ())
    assert producer.tick(now_s + 1000.0) == []  # this process stood still
    assert producer.tick(now_s + 1002.5) == []
    assert producer.leased == 1
    for i in range(6):
        producer.renew(slow, (1,))
        producer.tick(now_s + 1005.0 + 2.5 * i)
    assert producer.leased == 0


def test_feedback_has_room_when_ordinary_work_fills_the_window() -> None:
    consumer, new, back = Consumer(3, 300, reserve=1), end("new~1"), end("back~1")
    consumer.producer_up(new)
    consumer.producer_up(back, feedback=True)
    consumer.backlog(new, 10, 0, 1000, 0, 100)
    assert consumer.grants() == [GrantTo(new, 2, 200)]
    consumer.backlog(back, 4, 0, 400, 0, 100)
    assert consumer.grants() == [GrantTo(back, 1, 100)]
    assert consumer.item(back, 1, "again", 100, 100).fresh
    consumer.finish("again", None)
    assert consumer.grants() == [GrantTo(back, 1, 100)]
