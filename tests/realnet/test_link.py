"""The session of a link over a connection that drops, repeats, reorders and breaks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from realnet.link import ACK_BATCHES, ACK_S, PROBE_S, Effect, Lost, Session, Signal, Transmit


class End:
    """One end: a session, what it delivered, what it was told of."""

    def __init__(self, keep_bytes: int = 2**30) -> None:
        self.session = Session(keep_bytes=keep_bytes)
        self.got: list[int] = []
        self.lost_in = 0
        self.lost_out = 0
        self.said = 0


class Pair:
    """Two ends, a clock, and a bad connection in each direction."""

    def __init__(self, seed: int, keep_bytes: int = 2**30) -> None:
        self.rng = random.Random(seed)
        self.ends = (End(keep_bytes), End(keep_bytes))
        self.lines: tuple[list[Any], list[Any]] = ([], [])  # what is under way to 0, to 1
        self.up = [True, True]  # the connection of 0 to 1, of 1 to 0
        self.now_s = 0.0
        self.bad = 0.0

    def say(self, who: int, size: int = 1) -> None:
        end = self.ends[who]
        end.said += 1
        number, ack = end.session.next()
        self.do(who, end.session.send((number, ack, end.said, size), size, self.now_s))

    def do(self, who: int, effects: list[Effect]) -> None:
        line = self.lines[1 - who]
        for effect in effects:
            if isinstance(effect, Lost):
                end = self.ends[who]
                if effect.outgoing:
                    end.lost_out += effect.num
                else:
                    end.lost_in += effect.num
                continue
            if not self.up[who] or self.rng.random() < self.bad:
                continue
            line.append(effect)
            if self.rng.random() < self.bad:
                line.append(effect)
            if len(line) > 1 and self.rng.random() < self.bad:
                other = self.rng.randrange(len(line))
                line[-1], line[other] = line[other], line[-1]

    def step(self) -> bool:
        """Deliver one thing. False if nothing is under way."""
        ways = [w for w in (0, 1) if self.lines[w]]
        if not ways:
            return False
        who = self.rng.choice(ways)
        effect, end = self.lines[who].pop(0), self.ends[who]
        if isinstance(effect, Transmit):
            number, ack, value, size = effect.payload
            received = end.session.received(number, ack, self.now_s, num_bytes=size)
            if received.fresh:
                end.got.append(value)
        else:
            assert isinstance(effect, Signal)
            received = end.session.received(
                0, effect.ack, self.now_s, high=effect.high, again=effect.again, gone=effect.gone
            )
            assert not received.fresh
        self.do(who, received.effects)
        return True

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        for who in (0, 1):
            self.do(who, self.ends[who].session.tick(self.now_s))

    def cut(self, who: int, told: bool = True) -> None:
        self.up[who] = False
        keep = self.rng.randint(0, len(self.lines[1 - who]))
        del self.lines[1 - who][keep:]  # what has not reached the other end's kernel
        if told:
            self.ends[who].session.connection_down()

    def mend(self, who: int) -> None:
        self.up[who] = True
        self.do(who, self.ends[who].session.connection_up(self.now_s))

    def settle(self) -> None:
        """No more faults: come to rest."""
        self.bad = 0.0
        for who in (0, 1):
            if not self.up[who]:
                self.mend(who)
        for _ in range(10_000):
            while self.step():
                pass
            if not any(e.session.busy for e in self.ends):
                return
            self.pass_time(0.1)
        raise AssertionError("it never comes to rest")


@pytest.mark.parametrize("seed", range(400))
def test_exactly_once_in_order(seed: int) -> None:
    print(f"seed {seed}")
    pair = Pair(seed)
    rng = pair.rng
    for _ in range(rng.randint(20, 150)):
        pair.bad = rng.choice([0.0, 0.0, 0.05, 0.4])
        pair.say(rng.randint(0, 1))
        for _ in range(rng.randint(0, 4)):
            pair.step()
        if rng.random() < 0.2:
            pair.pass_time(rng.choice([0.01, 0.1, 1.0, 3.0]))
        if rng.random() < 0.05:
            who = rng.randint(0, 1)
            if pair.up[who]:
                pair.cut(who, told=rng.random() < 0.8)
            else:
                pair.mend(who)
    pair.settle()
    for who in (0, 1):
        assert pair.ends[1 - who].got == list(range(1, pair.ends[who].said + 1))
        assert pair.ends[who].lost_in == pair.ends[who].lost_out == 0
        assert pair.ends[who].session.kept_bytes == 0


@pytest.mark.parametrize("seed", range(200))
def test_what_was_forgotten_and_is_missing_is_told_at_both_ends(seed: int) -> None:
    pair = Pair(seed, keep_bytes=10)
    rng = pair.rng
    for _ in range(rng.randint(20, 100)):
        pair.bad = rng.choice([0.0, 0.3])
        pair.say(0, size=rng.randint(1, 4))
        for _ in range(rng.randint(0, 2)):
            pair.step()
        if rng.random() < 0.1:
            pair.cut(0) if pair.up[0] else pair.mend(0)
    pair.settle()
    sender, receiver = pair.ends
    assert receiver.got == sorted(set(receiver.got))
    assert len(receiver.got) + receiver.lost_in == sender.said
    assert sender.lost_out >= receiver.lost_in or not receiver.lost_in
    assert (sender.lost_out > 0) == (receiver.lost_in > 0)
    assert sender.session.kept_bytes == 0


def test_acks_ride_on_what_goes_out_anyway() -> None:
    session = Session()
    assert session.received(1, 0, 0.0).fresh
    assert session.busy
    number, ack = session.next()
    assert (number, ack) == (1, 1)
    assert session.send("x", 1, 0.1) == [Transmit("x")]
    assert session.tick(0.1 + ACK_S) == []
    assert session.received(0, 1, 0.2).effects == []
    assert not session.busy


def test_an_ack_goes_alone_after_a_while_or_when_much_has_come() -> None:
    session = Session()
    session.received(1, 0, 0.0)
    assert session.tick(ACK_S / 2) == []
    assert session.tick(ACK_S) == [Signal(1)]
    assert not session.busy
    effects: list[Effect] = []
    for i in range(ACK_BATCHES):
        effects += session.received(2 + i, 0, 1.0).effects
    assert effects == [Signal(1 + ACK_BATCHES)]


def test_a_slow_end_is_probed_and_sent_nothing_twice() -> None:
    session = Session()
    session.send("x", 1, 0.0)
    for i in range(1, 5):
        assert session.tick(i * PROBE_S) == [Signal(0, high=1)]
    assert session.received(0, 1, 9.0).effects == []
    assert not session.busy


def test_a_probe_is_answered_at_once_and_the_answer_is_not() -> None:
    session = Session()
    session.received(1, 0, 0.0)
    assert session.received(0, 0, 0.0, high=1).effects == [Signal(1)]
    assert session.received(0, 0, 0.0).effects == []


def test_a_gap_is_asked_for_once_in_a_while() -> None:
    session = Session()
    session.received(1, 0, 0.0)
    assert session.received(3, 0, 0.0).effects == [Signal(1, again=True)]
    assert session.received(4, 0, 0.0).effects == []
    assert session.received(5, 0, 1.0).effects == [Signal(1, again=True)]
    assert session.received(2, 0, 1.0).fresh


def test_without_a_connection_nothing_is_sent_and_all_is_kept() -> None:
    session = Session()
    session.connection_down()
    assert session.send("a", 1, 0.0) == session.send("b", 1, 0.0) == []
    assert session.tick(100.0) == []
    assert session.connection_up(101.0) == [Transmit("a"), Transmit("b"), Signal(0, high=2)]


def test_an_ack_of_what_was_never_sent_is_not_believed() -> None:
    session = Session()
    session.send("a", 1, 0.0)
    session.received(0, 10**9, 0.0)
    assert session.acked == 1
    session.send("b", 1, 0.0)
    assert session.kept_bytes == 1
