"""Share wires in simulation: random kills, delays and sizes; nothing lost, nothing stuck.

The real Producer and Consumer, joined by queues that keep order and lose what a dead one had.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from realnet.delivery import AckTo, Announce, Consumer, Done, GrantTo, Producer, Send


class Net:
    """Producers and consumers of one wire, links with order, kills at any moment."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.links: dict[tuple[str, str], deque[Any]] = {}
        self.producers: dict[str, Producer] = {}
        self.consumers: dict[str, Consumer] = {}
        self.windows: dict[str, int] = {}
        self.keys: dict[tuple[str, int], str] = {}
        self.in_work: dict[str, list[str]] = {}
        self.durable: dict[str, int] = {}  # key -> times its handler finished
        self.done: set[str] = set()
        self.next = 0

    def add_producer(self, name: str) -> None:
        self.producers[name] = Producer()
        for c in self.consumers:
            self.producers[name].consumer_up(c)
            self.consumers[c].producer_up(name)
            self.links[name, c], self.links[c, name] = deque(), deque()

    def add_consumer(self, name: str, window: int) -> None:
        self.consumers[name] = Consumer(window)
        self.windows[name] = window
        self.in_work[name] = []
        for p, producer in self.producers.items():
            producer.consumer_up(name)
            self.consumers[name].producer_up(p)
            self.links[p, name], self.links[name, p] = deque(), deque()

    def kill_consumer(self, name: str) -> None:
        del self.consumers[name], self.in_work[name]
        for p, producer in self.producers.items():
            self.links.pop((p, name)), self.links.pop((name, p))
            self.sent(p, producer.consumer_down(name))

    def offer(self, p: str, key: str) -> None:
        self.next += 1
        self.keys[p, self.next] = key
        self.sent(p, self.producers[p].offer(self.next))

    def sent(self, p: str, effects: list[Send]) -> None:
        for e in effects:
            self.links[p, e.consumer].append(("item", e.item, self.keys[p, e.item]))

    def consumed(self, c: str, effects: list[Any]) -> None:
        for e in effects:
            assert isinstance(e, GrantTo | AckTo)
            what = ("grant", e.room) if isinstance(e, GrantTo) else ("ack", e.item)
            self.links[c, e.producer].append(what)

    def step(self) -> bool:
        for p, producer in self.producers.items():
            for a in producer.announce():
                assert isinstance(a, Announce)
                self.links[p, a.consumer].append(("backlog", a.waiting, a.unused))
        moves = [k for k, q in self.links.items() if q]
        workers = [c for c, w in self.in_work.items() if w]
        if not moves and not workers:
            return False
        if workers and (not moves or self.rng.random() < 0.3):
            c = self.rng.choice(workers)
            work = self.in_work[c]
            key = work.pop(self.rng.randrange(len(work)))
            self.durable[key] = self.durable.get(key, 0) + 1
            self.consumed(c, self.consumers[c].finish(key, None))
            return True
        sender, receiver = self.rng.choice(moves)
        what = self.links[sender, receiver].popleft()
        if receiver in self.consumers:
            self.at_consumer(sender, receiver, what)
        else:
            self.at_producer(sender, receiver, what)
        return True

    def at_consumer(self, sender: str, c: str, what: Any) -> None:
        consumer = self.consumers[c]
        if what[0] == "backlog":
            self.consumed(c, consumer.backlog(sender, what[1], what[2]))
        else:
            accepted = consumer.item(sender, what[1], what[2])
            self.consumed(c, accepted.effects)
            if accepted.fresh:
                self.in_work[c].append(what[2])
        assert consumer.in_hand <= self.windows[c]

    def at_producer(self, sender: str, p: str, what: Any) -> None:
        producer = self.producers[p]
        if what[0] == "grant":
            self.sent(p, producer.grant(sender, what[1]))
        else:
            for d in producer.ack(sender, what[1], None):
                assert isinstance(d, Done)
                self.done.add(self.keys[p, d.item])


@pytest.mark.parametrize("seed", range(300))
def test_nothing_lost_nothing_stuck(seed: int) -> None:
    print(f"seed {seed}")
    net = Net(seed)
    rng = net.rng
    for i in range(rng.randint(1, 3)):
        net.add_producer(f"p{i}")
    for i in range(rng.randint(1, 4)):
        net.add_consumer(f"c{i}~1", rng.randint(1, 5))
    offered: set[str] = set()
    lives = 1
    for n in range(rng.randint(20, 80)):
        key = f"k{n}"
        offered.add(key)
        net.offer(rng.choice(list(net.producers)), key)
        for _ in range(rng.randint(0, 8)):
            net.step()
        if rng.random() < 0.05:
            lives += 1
            net.kill_consumer(rng.choice(list(net.consumers)))
            net.add_consumer(f"c{rng.randint(0, 9)}~{lives}", rng.randint(1, 5))
    steps = 0
    while net.step():
        steps += 1
        assert steps < 50_000, "it never comes to rest"
    assert net.done == offered
    assert set(net.durable) == offered
    for producer in net.producers.values():
        assert producer.waiting == 0
        assert producer.leased == 0


@pytest.mark.parametrize("seed", range(30))
def test_without_deaths_each_item_is_handled_once(seed: int) -> None:
    net = Net(seed)
    net.add_producer("p0")
    for i in range(3):
        net.add_consumer(f"c{i}~1", 3)
    for n in range(100):
        net.offer("p0", f"k{n}")
        net.step()
    while net.step():
        pass
    assert set(net.durable.values()) == {1}


def test_same_key_from_a_restarted_producer_is_adopted() -> None:
    consumer = Consumer(4)
    consumer.producer_up("p~1")
    assert consumer.backlog("p~1", 1, 0) == [GrantTo("p~1", 1)]
    assert consumer.item("p~1", 7, "k").fresh
    assert consumer.producer_down("p~1") == []
    consumer.producer_up("p~2")
    consumer.backlog("p~2", 1, 0)
    assert not consumer.item("p~2", 1, "k").fresh
    assert consumer.finish("k", None) == [AckTo("p~2", 1, None)]
    assert consumer.item("p~2", 2, "k").effects[0] == AckTo("p~2", 2, None)


def test_attempts_count_deliveries() -> None:
    producer = Producer()
    producer.consumer_up("c~1")
    assert producer.offer(1) == []
    assert producer.grant("c~1", 1) == [Send("c~1", 1, 1)]
    producer.consumer_up("c~2")
    assert producer.consumer_down("c~1") == []
    assert producer.grant("c~2", 1) == [Send("c~2", 1, 2)]
    assert producer.ack("c~1", 1, None) == []  # a late word
    assert producer.ack("c~2", 1, "no") == [Done(1, "no")]
