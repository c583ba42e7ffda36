"""Share wires, decided without IO: offer and grant, custody, acks, redelivery, dedupe.

A `Producer` is the sending end of one wire, a `Consumer` the receiving end. Both take events and
return effects; neither touches a socket or a clock.

    producer                                   consumer
      offer()  -> Backlog(waiting) ------------> backlog() -> Grant(n), never more than its room
      grant()  -> Send(item)       ------------> item()    -> accept, or a duplicate
      ack()    -> Done(item)       <------------ finish()  -> Ack
      consumer_down() -> what it held goes back to the front, one attempt more

Nobody pre-splits room: a grant answers an announced backlog, so credit never strands at a producer
that has nothing. With several consumers more may be granted than is there; what is over is given
back in the next Backlog. At least once: an item is done only when acked. The consumer drops what it
has in hand or has finished under the same key, and acks it to whoever sent it.

Knows nothing of records, codecs or actors. Called by the share ports in `ports.py`, and by the
simulator.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from realnet.errors import ensure


class Send(NamedTuple):
    """Effect: put this item on the link to the consumer."""

    consumer: str
    item: int
    attempt: int


class Announce(NamedTuple):
    """Effect: tell the consumer what waits here and give back what it granted too much."""

    consumer: str
    waiting: int
    unused: int


class Done(NamedTuple):
    """Effect: the item is finished; `aside` is the reason if it was set aside."""

    item: int
    aside: str | None


class GrantTo(NamedTuple):
    """Effect: let the producer send `room` more."""

    producer: str
    room: int


class AckTo(NamedTuple):
    """Effect: tell the producer that this item is finished."""

    producer: str
    item: int
    aside: str | None


@dataclass
class _Held:
    attempt: int = 0
    consumer: str | None = None


@dataclass
class _ConsumerSeen:
    credit: int = 0
    unused: int = 0
    told: int = -1  # the backlog it was last told
    holds: set[int] = field(default_factory=set)


class Producer:
    """The sending end of a share wire. Consumers are names of incarnations."""

    def __init__(self) -> None:
        self._items: dict[int, _Held] = {}
        self._waiting: deque[int] = deque()
        self._consumers: dict[str, _ConsumerSeen] = {}

    @property
    def waiting(self) -> int:
        """How many items no consumer has yet."""
        return len(self._waiting)

    @property
    def leased(self) -> int:
        """How many items a consumer has and has not finished."""
        return len(self._items) - len(self._waiting)

    @property
    def consumers(self) -> tuple[str, ...]:
        """The consumers that are up."""
        return tuple(self._consumers)

    def offer(self, item: int) -> list[Send]:
        """A new item wants to go."""
        ensure(item not in self._items, f"item {item} was offered twice")
        self._items[item] = _Held()
        self._waiting.append(item)
        return self._hand_out()

    def withdraw(self, item: int) -> bool:
        """Take back an item that nobody has yet; False if a consumer has it."""
        held = self._items.get(item)
        if held is None or held.consumer is not None:
            return False
        self._waiting.remove(item)
        del self._items[item]
        return True

    def consumer_up(self, consumer: str) -> None:
        """A consumer joined."""
        self._consumers.setdefault(consumer, _ConsumerSeen())

    def consumer_down(self, consumer: str) -> list[Send]:
        """A consumer is gone: what it held goes to others, oldest first, before new work."""
        seen = self._consumers.pop(consumer, None)
        if seen is None:
            return []
        for item in sorted(seen.holds, reverse=True):
            self._items[item].consumer = None
            self._waiting.appendleft(item)
        return self._hand_out()

    def grant(self, consumer: str, count: int) -> list[Send]:
        """A consumer has room for `count` more."""
        seen = self._consumers.get(consumer)
        if seen is None:
            return []
        seen.credit += count
        return self._hand_out()

    def ack(self, consumer: str, item: int, aside: str | None) -> list[Done]:
        """A consumer finished an item. Acks of items that it does not hold are late: ignored."""
        seen = self._consumers.get(consumer)
        if seen is None or item not in seen.holds:
            return []
        seen.holds.discard(item)
        del self._items[item]
        return [Done(item, aside)]

    def announce(self) -> list[Announce]:
        """Tell every consumer whose picture of the backlog is out of date. Call once a turn."""
        effects = []
        for name, seen in self._consumers.items():
            if not self._waiting and seen.credit:  # granted more than there is: give it back
                seen.unused, seen.credit = seen.unused + seen.credit, 0
            if seen.told != len(self._waiting) or seen.unused:
                effects.append(Announce(name, len(self._waiting), seen.unused))
                seen.told, seen.unused = len(self._waiting), 0
        return effects

    def _hand_out(self) -> list[Send]:
        effects = []
        while self._waiting:
            ready = [(len(s.holds), n) for n, s in self._consumers.items() if s.credit > 0]
            if not ready:
                break
            _, name = min(ready)  # the one that holds least
            item = self._waiting.popleft()
            seen, held = self._consumers[name], self._items[item]
            seen.credit -= 1
            seen.told -= seen.told > 0  # the consumer takes one off its picture when it arrives
            seen.holds.add(item)
            held.consumer, held.attempt = name, held.attempt + 1
            effects.append(Send(name, item, held.attempt))
        return effects


@dataclass
class _ProducerSeen:
    waiting: int = 0
    granted: int = 0


class Accepted(NamedTuple):
    """What to do with an item that came in: `fresh` ones go to the handler."""

    fresh: bool
    effects: list[GrantTo | AckTo]


class Consumer:
    """The receiving end of a share wire. Producers are names of incarnations."""

    def __init__(self, window: int, remembered: int = 8192):
        self.window = window
        self._remembered = remembered
        self._producers: OrderedDict[str, _ProducerSeen] = OrderedDict()
        self._in_hand: dict[str, list[tuple[str, int]]] = {}  # key -> everyone who sent it
        self._finished: OrderedDict[str, str | None] = OrderedDict()  # key -> set-aside reason

    @property
    def in_hand(self) -> int:
        """How many items are accepted and not finished."""
        return len(self._in_hand)

    def producer_up(self, producer: str) -> None:
        """A producer joined."""
        self._producers.setdefault(producer, _ProducerSeen())

    def producer_down(self, producer: str) -> list[GrantTo]:
        """A producer is gone: its grants come back. What it sent is worked on all the same."""
        self._producers.pop(producer, None)
        return self._grant()

    def backlog(self, producer: str, waiting: int, unused: int) -> list[GrantTo]:
        """A producer told what waits there."""
        seen = self._producers.setdefault(producer, _ProducerSeen())
        seen.granted = max(0, seen.granted - unused)
        seen.waiting = waiting
        return self._grant()

    def item(self, producer: str, item: int, key: str) -> Accepted:
        """An item came in. A key in hand or finished is not handled again."""
        seen = self._producers.setdefault(producer, _ProducerSeen())
        seen.granted = max(0, seen.granted - 1)
        seen.waiting = max(0, seen.waiting - 1)
        if key in self._finished:
            aside = self._finished[key]
            return Accepted(False, [AckTo(producer, item, aside), *self._grant()])
        owners = self._in_hand.setdefault(key, [])
        owners.append((producer, item))
        return Accepted(len(owners) == 1, [])

    def finish(self, key: str, aside: str | None) -> list[GrantTo | AckTo]:
        """An item is done (or set aside): ack it to everyone who sent it, grant the room."""
        owners = self._in_hand.pop(key, [])
        self._finished[key] = aside
        while len(self._finished) > self._remembered:
            self._finished.popitem(last=False)
        acks: list[GrantTo | AckTo] = [
            AckTo(producer, item, aside) for producer, item in owners if producer in self._producers
        ]
        return [*acks, *self._grant()]

    def _grant(self) -> list[GrantTo]:
        room = self.window - len(self._in_hand) - sum(s.granted for s in self._producers.values())
        wants = {n: s.waiting - s.granted for n, s in self._producers.items()}
        grants: dict[str, int] = {}
        while room > 0:
            hungry = [n for n, want in wants.items() if want > 0]
            if not hungry:
                break
            share = max(1, room // len(hungry))
            for name in hungry:
                count = min(share, wants[name], room)
                grants[name] = grants.get(name, 0) + count
                wants[name] -= count
                room -= count
        for name, count in grants.items():
            if count:
                self._producers[name].granted += count
                self._producers.move_to_end(name)
        return [GrantTo(name, count) for name, count in grants.items() if count]
