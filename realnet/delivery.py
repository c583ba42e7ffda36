"""The sending end of share wires, decided without IO: backlog, grants, leases, affinity, acks.

A `Producer` is the sending end of one wire, a `Consumer` (`custody.py`) the receiving end. Both
take events and return effects; neither touches a socket or a clock.

    producer                                   consumer
      announce() -> Backlog(waiting) ----------> backlog()
      grant()    <------------------- Grant(n) <- grants()   never more than its room
      grant()    -> Send(item)       ------------> item()    -> accept, or a duplicate
      renew()    <------------------ Working <-- working()   while the handlers move
      ack()      -> Done(item)       <------------ finish()  -> Ack
      consumer_down(), tick() -> what it held goes to others, one attempt more

Room is granted in messages and in bytes. Nobody pre-splits it: a grant answers an announced
backlog, and what a producer cannot use (nothing is left, or its next item is larger than the bytes
it was granted) goes back with its next Backlog, so credit never strands. At least once: an item is
done only when acked, by whoever has it or had it before its lease ran out: the first copy wins.

Knows nothing of records, codecs or actors. Called by `live/outlet.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from realnet.affinity import End
from realnet.backlog import Backlog
from realnet.errors import ensure
from realnet.held import Held, Member, Queue

TICKS = 4  # a lease is looked at so many times while it lasts
UNTOLD_LEASE_S = 60.0  # of members of whom none has granted anything yet


class Send(NamedTuple):
    """Effect: put this item on the link. `spent` bytes of credit went with it, its size or more."""

    consumer: End
    item: int
    attempt: int
    spent: int


class Announce(NamedTuple):
    """Effect: tell the consumer what waits for it, and give back what it granted too much.

    `need` is the size of the item that comes next.
    """

    consumer: End
    waiting: int
    unused: int
    num_bytes: int
    unused_bytes: int
    need: int


class Done(NamedTuple):
    """Effect: the item is finished; `aside` is the reason if it was set aside."""

    item: int
    aside: str | None


class Producer:
    """The sending end of a share wire."""

    def __init__(self) -> None:
        self._items: dict[int, Held] = {}
        self._members: dict[End, Member] = {}
        self._backlog = Backlog(self._items, self._members)
        self._ready: dict[End, Member] = {}  # those with credit
        self._leased = 0
        self._lease_s = 0.0  # the shortest
        self._joined = 0
        self._ticked_s: float | None = None

    @property
    def waiting(self) -> int:
        """How many items no consumer has."""
        return len(self._items) - self._leased

    @property
    def leased(self) -> int:
        """How many items a consumer has and has not finished."""
        return self._leased

    @property
    def consumers(self) -> tuple[End, ...]:
        """The consumers that are up."""
        return tuple(self._members)

    # ------------------------------------------------------------ items

    def offer(self, item: int, size: int = 0, affinity: str = "") -> list[Send]:
        """A new item wants to go. Numbers grow; related items share an affinity."""
        ensure(item not in self._items, "an item was offered twice")
        held = self._items[item] = Held(size, affinity)
        self._backlog.add(item, held)
        return self._hand_out() if self._ready else []

    def waits(self, item: int) -> bool:
        """Tell whether nobody has this item."""
        held = self._items.get(item)
        return held is not None and held.holder is None

    def withdraw(self, item: int) -> bool:
        """Take back an item that nobody has; False if a consumer has it, or had it."""
        held = self._items.get(item)
        if held is None or held.queue is None or held.former:
            return False
        self._backlog.take(held)
        del self._items[item]
        return True

    def ack(self, consumer: End, items: Sequence[int], aside: str | None) -> list[Done]:
        """A consumer finished items. What it neither has nor had is a late word: ignored."""
        member = self._members.get(consumer)
        if member is None:
            return []
        done = []
        for item in items:
            held = self._items.get(item)
            if held is None or (held.holder is not member and consumer not in held.former):
                continue
            self._release(item, held)
            del self._items[item]
            done.append(Done(item, aside))
        if done:
            member.moved = True
            self._backlog.stalled.discard(consumer)
        return done

    # ------------------------------------------------------------ consumers

    def consumer_up(self, consumer: End) -> None:
        """A consumer joined. It may be told of more than once."""
        if consumer in self._members:
            return
        self._joined += 1
        self._members[consumer] = Member(consumer, self._joined)
        self._backlog.house()

    def consumer_down(self, consumer: End) -> list[Send]:
        """A consumer is gone: what it held goes to others, oldest first, before new work."""
        member = self._members.pop(consumer, None)
        if member is None:
            return []
        self._ready.pop(consumer, None)
        self._backlog.stalled.discard(consumer)
        for item in member.holds:
            held = self._items[item]
            held.holder = None
            self._leased -= 1
            self._backlog.add(item, held)
        self._backlog.add_again(member.bound)
        return self._hand_out()

    def grant(
        self, consumer: End, count: int, num_bytes: int = 0, lease_s: float = 0.0
    ) -> list[Send]:
        """A consumer has room for `count` more with `num_bytes` together.

        What it makes no progress on for `lease_s` seconds goes to another; 0 means never.
        """
        member = self._members.get(consumer)
        if member is None:
            return []
        member.credit += count
        member.credit_bytes += num_bytes
        if lease_s != member.lease_s:
            member.lease_s = lease_s
            leases = [m.lease_s for m in self._members.values() if m.lease_s]
            self._lease_s = min(leases, default=0.0)
        if member.credit:
            self._ready[consumer] = member
        return self._hand_out()

    def announce(self) -> list[Announce]:
        """Tell every consumer whose picture of the backlog is out of date. Call once a turn."""
        effects = []
        for name, member in self._members.items():
            unused, unused_bytes = member.credit, member.credit_bytes
            waiting, num_bytes = self._backlog.waiting_for(member)
            if unused or unused_bytes:  # it fits nothing that is here
                member.credit = member.credit_bytes = 0
                self._ready.pop(name, None)
            elif waiting == member.told and num_bytes == member.told_bytes:
                continue
            member.told, member.told_bytes = waiting, num_bytes
            item = self._backlog.next_for(member)
            need = 0 if item is None else self._items[item].size
            effects.append(Announce(name, waiting, unused, num_bytes, unused_bytes, need))
        return effects

    # ------------------------------------------------------------ leases

    @property
    def tick_s(self) -> float:
        """How often `tick` wants to be called while there is an item; 0: it need not be."""
        if not self._items:
            return 0.0
        if self._lease_s:
            return self._lease_s / TICKS
        untold = any(m.lease_s is None and m.bound.count for m in self._members.values())
        return UNTOLD_LEASE_S / TICKS if untold else 0.0

    def renew(self, consumer: End, idle: Sequence[int]) -> None:
        """A consumer works on what it has of this producer, except for the `idle` ones."""
        member = self._members.get(consumer)
        if member is not None:
            resting = set(idle)
            for item in member.holds:
                if item not in resting:
                    self._items[item].renewed_s = None
                    member.moved = True

    def tick(self, now_s: float) -> list[Send]:
        """Take back the items whose lease ran out, if somebody else is there to have them.

        Related work that waits for a member which does nothing for so long waits for it no longer.
        Time in which nobody called this (the process stood still) counts against no one.
        """
        away_s = 0.0
        if self._ticked_s is not None:
            away_s = max(0.0, now_s - self._ticked_s - 2 * self.tick_s)
        for member in list(self._members.values()):
            lease_s = member.lease_s
            if (
                lease_s is None
            ):  # full of others' work since it came: what is bound to it must not wait
                lease_s = self._lease_s or UNTOLD_LEASE_S
            if lease_s:
                self._tick_member(member, lease_s, now_s, away_s)
        self._ticked_s = now_s if self._items else None
        return self._hand_out()

    def _tick_member(self, member: Member, lease_s: float, now_s: float, away_s: float) -> None:
        for item in list(member.holds):
            held = self._items[item]
            if held.renewed_s is None:
                held.renewed_s = now_s
                continue
            held.renewed_s += away_s
            if now_s - held.renewed_s > lease_s:
                self._take_back(item, held, member)
        if member.moved or not member.bound.count:
            member.since_s, member.moved = now_s, False
        else:
            member.since_s += away_s
            if now_s - member.since_s > lease_s:
                self._stall(member)

    def _take_back(self, item: int, held: Held, member: Member) -> None:
        former = (*held.former, member.name)
        if any(name not in former for name in self._members):
            self._release(item, held)
            held.former = former
            self._backlog.put(item, held, self._backlog.returned)
            self._stall(member)

    def _stall(self, member: Member) -> None:
        """Whatever is related goes elsewhere, until this member finishes something."""
        stalled = self._backlog.stalled
        stalled.add(member.name)
        if stalled.issuperset(self._members):  # the others have rested: one of them may be able now
            stalled.clear()
            stalled.add(member.name)
        bound, member.bound = member.bound, Queue()
        self._backlog.add_again(bound)

    # ------------------------------------------------------------ handing out

    def _release(self, item: int, held: Held) -> None:
        """Nobody has this item and it waits nowhere."""
        self._backlog.take(held)
        if held.holder is not None:
            del held.holder.holds[item]
            held.holder = None
            self._leased -= 1

    def _hand_out(self) -> list[Send]:
        sends: list[Send] = []
        ready = self._ready
        if self._leased == len(self._items) or not ready:
            return sends
        if len(ready) == 1:
            (member,) = ready.values()
            while member.credit and self._send_next(member, sends):
                pass
            return sends
        line = [(len(m.holds), m.order, m) for m in ready.values()]  # who holds least comes first
        heapq.heapify(line)
        while line:
            _, order, member = line[0]
            if self._send_next(member, sends) and member.credit:
                heapq.heapreplace(line, (len(member.holds), order, member))
            else:
                heapq.heappop(line)
        return sends

    def _send_next(self, member: Member, sends: list[Send]) -> bool:
        item = self._backlog.next_for(member)
        if item is None:
            return False
        held = self._items[item]
        size = held.size
        if size > member.credit_bytes:
            return False
        self._backlog.unqueue(item, held)
        member.moved = True
        member.credit -= 1
        spent = size
        if not member.credit:  # the bytes that are left over go along: they are of no use here
            spent = member.credit_bytes
            del self._ready[member.name]
        member.credit_bytes -= spent
        if member.told:  # the consumer takes one off its picture when it arrives
            member.told -= 1
            member.told_bytes = max(0, member.told_bytes - size)
        member.holds[item] = None
        held.holder, held.renewed_s = member, None
        held.attempt += 1
        self._leased += 1
        sends.append(Send(member.name, item, held.attempt, spent))
        return True
