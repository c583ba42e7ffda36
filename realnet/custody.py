"""The receiving end of share wires, decided without IO: room, custody, dedupe, acks, progress.

A `Consumer` lets producers send no more than it has room for, in messages and in bytes (`grants`),
drops what it has in hand or has finished under the same key, and acks an item to whoever sent it.
`delivery.py` is the other end and shows how the two talk.

Producers are served in turn. Whose turn it is and whose next item does not fit waits until it does,
and the others with it, so that large items do not starve. One item that is larger than the whole
window goes when nothing else is in hand.

`reserve` places of the window, and as large a part of its bytes, are for `feedback` producers only:
what runs in a circle can always move.

Knows nothing of records, codecs or actors. Called by `live/inlet.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from realnet.affinity import End

WINDOW_BYTES = 256 * 2**20


class GrantTo(NamedTuple):
    """Effect: let the producer send `room` more, `num_bytes` together."""

    producer: End
    room: int
    num_bytes: int


class AckTo(NamedTuple):
    """Effect: tell the producer that this item is finished."""

    producer: End
    item: int
    aside: str | None


class Working(NamedTuple):
    """Effect: tell the producer that its items are worked on, except for the `idle` ones."""

    producer: End
    idle: tuple[int, ...]


class Accepted(NamedTuple):
    """What to do with an item that came in: `fresh` ones go to the handler."""

    fresh: bool
    acks: tuple[AckTo, ...] = ()


_FRESH, _KNOWN = Accepted(True), Accepted(False)


class _Class:
    """What producers of one class (ordinary or feedback) use of the window."""

    __slots__ = ("count", "hungry", "num_bytes")

    def __init__(self) -> None:
        self.count = 0  # in hand or granted
        self.num_bytes = 0
        self.hungry: dict[End, _Source] = {}  # those with more than they were granted, in turn


class _Source:
    """A producer as the consumer sees it."""

    __slots__ = (
        *("bounced", "granted", "granted_bytes", "need", "of", "waiting", "waiting_bytes"),
    )

    def __init__(self, of: _Class):
        self.of = of
        self.waiting = 0
        self.waiting_bytes = 0
        self.need = 0
        self.bounced = False  # its next item was larger than what it was granted
        self.granted = 0
        self.granted_bytes = 0


class _InHand:
    __slots__ = ("of", "owners", "size")

    def __init__(self, of: _Class, size: int, owner: tuple[End, int]):
        self.of = of
        self.size = size
        self.owners = [owner]  # everyone who sent it


class Consumer:
    """The receiving end of share wires."""

    def __init__(
        self,
        window: int,
        window_bytes: int = WINDOW_BYTES,
        *,
        reserve: int = 0,
        remembered: int = 8192,
    ):
        self.window = window
        self.window_bytes = window_bytes
        self.reserve = reserve
        self._remembered = max(remembered, 4 * window)
        self._ordinary, self._feedback = _Class(), _Class()
        self._producers: dict[End, _Source] = {}
        self._in_hand: dict[str, _InHand] = {}
        self._finished: OrderedDict[str, str | None] = OrderedDict()  # key -> set-aside reason
        self.in_hand_bytes = 0

    @property
    def in_hand(self) -> int:
        """How many items are accepted and not finished."""
        return len(self._in_hand)

    def granted(self) -> dict[End, tuple[int, int]]:
        """What each producer may still send, in items and bytes."""
        return {name: (s.granted, s.granted_bytes) for name, s in self._producers.items()}

    # ------------------------------------------------------------ producers

    def producer_up(self, producer: End, *, feedback: bool = False) -> None:
        """A producer joined. It may be told of more than once."""
        if producer not in self._producers:
            self._producers[producer] = _Source(self._feedback if feedback else self._ordinary)

    def producer_down(self, producer: End) -> None:
        """A producer is gone: its grants come back. What it sent is worked on all the same."""
        source = self._producers.pop(producer, None)
        if source is not None:
            source.of.hungry.pop(producer, None)
            _take(source, source.granted, source.granted_bytes)

    def backlog(
        self,
        producer: End,
        waiting: int,
        unused: int = 0,
        num_bytes: int = 0,
        unused_bytes: int = 0,
        need: int = 0,
    ) -> None:
        """A producer told what waits there, and how large the next one is."""
        source = self._producers.get(producer)
        if source is None:
            return
        _take(source, unused, unused_bytes)
        source.waiting, source.waiting_bytes, source.need = waiting, num_bytes, need
        source.bounced = source.bounced or (unused > 0 and waiting > 0)
        if waiting > source.granted:
            source.of.hungry.setdefault(producer, source)
        else:
            source.of.hungry.pop(producer, None)

    # ------------------------------------------------------------ items

    def item(self, producer: End, item: int, key: str, size: int = 0, spent: int = 0) -> Accepted:
        """An item came in. A key in hand or finished is not handled again."""
        source = self._producers.get(producer)
        if source is None:
            return _KNOWN  # whoever follows a dead producer sends it again
        _take(source, 1, spent)
        source.waiting = max(0, source.waiting - 1)
        source.waiting_bytes = max(0, source.waiting_bytes - size)
        source.need, source.bounced = 0, False
        if key in self._finished:
            return Accepted(False, (AckTo(producer, item, self._finished[key]),))
        held = self._in_hand.get(key)
        if held is not None:
            held.owners.append((producer, item))
            return _KNOWN
        self._in_hand[key] = _InHand(source.of, size, (producer, item))
        self.in_hand_bytes += size
        source.of.count += 1
        source.of.num_bytes += size
        return _FRESH

    def finish(self, key: str, aside: str | None) -> list[AckTo]:
        """An item is done (or set aside): ack it to everyone who sent it."""
        held = self._in_hand.pop(key, None)
        if held is None:
            return []
        self.in_hand_bytes -= held.size
        held.of.count -= 1
        held.of.num_bytes -= held.size
        self._finished[key] = aside
        if len(self._finished) > self._remembered:
            self._finished.popitem(last=False)
        return [AckTo(p, item, aside) for p, item in held.owners if p in self._producers]

    def working(self, idle: Collection[str]) -> list[Working]:
        """Say to everyone whose items are in hand that all but the `idle` keys make progress."""
        of: dict[End, list[int]] = {}
        for key, held in self._in_hand.items():
            for producer, item in held.owners:
                if producer in self._producers:
                    items = of.setdefault(producer, [])
                    if key in idle:
                        items.append(item)
        return [Working(producer, tuple(items)) for producer, items in of.items()]

    # ------------------------------------------------------------ room

    def grants(self) -> list[GrantTo]:
        """Give the room there is to those who have something. Call once a turn."""
        grants: dict[End, list[int]] = {}
        if self._feedback.hungry:
            self._grant(self._feedback, 0, grants)
        if self._ordinary.hungry:
            self._grant(self._ordinary, self.reserve, grants)
        return [GrantTo(name, count, size) for name, (count, size) in grants.items()]

    def _grant(self, of: _Class, reserve: int, grants: dict[End, list[int]]) -> None:
        """Grant to the producers of one class; `reserve` places are not for it."""
        hungry, other = of.hungry, self._feedback if of is self._ordinary else self._ordinary
        most, most_bytes = self.window - reserve, self.window_bytes
        most_bytes -= most_bytes * reserve // self.window
        while hungry:
            room = min(most, self.window - other.count) - of.count
            if room <= 0:
                return
            name, source = next(iter(hungry.items()))
            want = source.waiting - source.granted
            if want <= 0:  # it sent what it had not told of
                del hungry[name]
                continue
            count, num_bytes = _fitting(
                source,
                min(want, max(1, room // len(hungry))),
                min(most_bytes, self.window_bytes - other.num_bytes) - of.num_bytes,
                # Feedback must not wait for what waits for it.
                alone=not of.count and (of is self._feedback or not other.count),
            )
            if not count:
                return  # its turn stays its turn: the rest waits until there is room for it
            _take(source, -count, -num_bytes)
            total = grants.setdefault(name, [0, 0])
            total[0] += count
            total[1] += num_bytes
            del hungry[name]
            if count < want:
                hungry[name] = source


def _take(source: _Source, count: int, num_bytes: int) -> None:
    """Take grants back from a producer, or give it more (negative numbers)."""
    count, num_bytes = min(count, source.granted), min(num_bytes, source.granted_bytes)
    source.granted -= count
    source.granted_bytes -= num_bytes
    source.of.count -= count
    source.of.num_bytes -= num_bytes


def _fitting(source: _Source, count: int, room: int, *, alone: bool) -> tuple[int, int]:
    """Return how many of the next `count` items go into `room` bytes, and how many bytes they need.

    Sizes are known as their sum and that of the next one. `alone` lets one item go in any case.
    """
    waiting, total = source.waiting, source.waiting_bytes
    if source.granted and source.bounced:
        return 0, 0  # the rest of what it was granted is of no use to it either, and comes back
    mean = -(-total // waiting)
    least = mean if source.granted else source.need or mean
    wanted = max(least, -(-total * count // waiting))
    if wanted <= room:
        return count, wanted
    if least <= room:
        count = max(1, min(count, room * waiting // max(1, total)))
        return count, min(room, max(least, -(-total * count // waiting)))
    return (1, least) if alone else (0, 0)
