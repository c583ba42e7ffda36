"""What comes from other processes, until all is known of who says it.

A process may speak before the head's word of it is here: what it says is kept, in order, and played
again when that word comes. It may also have no right to speak: its own actors speak, the head alone
orders, the dead and strangers are not heard. Once all is known, a route leads straight to its port.

Knows nothing of links, codecs or how peers come and go. Called by `node.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from realnet import wire
from realnet.actor import Clock
from realnet.codec import Frame
from realnet.control import HEAD_SLOT, Peer, member_of
from realnet.errors import WireError
from realnet.strangers import Strangers
from realnet.ways import Take

MAX_EARLY = 20_000
_NEEDS_UP = wire.ShareOp | wire.Value


class Inside(Protocol):
    """A cell, as far as it is needed here."""

    def taker(self, sender: str, sender_port: str, port: str) -> Take: ...


class House(Protocol):
    """What the process knows of others: the node."""

    clock: Clock
    closed: bool

    @property
    def cells(self) -> Mapping[str, Inside]: ...
    @property
    def slots(self) -> list[str]: ...
    def peer(self, slot: str) -> Peer | None: ...
    def is_up(self, slot: str) -> bool: ...
    def is_dead(self, slot: str) -> bool: ...
    def slot_of(self, actor: str) -> str | None: ...
    def told(self, error: WireError) -> None: ...


class Entry:
    """Where a route from another process ends. `take` looks twice until all about it is known."""

    __slots__ = ("_reception", "route", "slot", "take")

    def __init__(self, reception: Reception, slot: str, route: wire.Route):
        self._reception = reception
        self.slot = slot
        self.route = route
        self.take: Take = self._consider

    def _consider(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        self._reception.consider(self, op, frames)


class Reception:
    """Looks at what is said by whom, and keeps what is early."""

    def __init__(self, house: House):
        self._house = house
        self._early: dict[str, deque[tuple[Entry, wire.AnyOp, Sequence[Frame]]]] = {}
        self._strangers = Strangers()
        self._looking = False

    def enter(self, slot: str, route: wire.Route) -> Entry:
        """Another process has opened a route to here."""
        return Entry(self, slot, route)

    def met(self, slot: str) -> None:
        """A process is known now."""
        self._strangers.met(slot)

    def forget(self, slot: str) -> None:
        """A process is dead."""
        self._strangers.met(slot)
        self._early.pop(slot, None)

    def replay(self, slot: str) -> None:
        """More is known of a process: what came early from it is looked at again."""
        for entry, op, frames in self._early.pop(slot, ()):
            entry.take(op, frames)

    def consider(self, entry: Entry, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        """An operation came from another process, in order, and it is not yet known whose."""
        house, slot, route = self._house, entry.slot, entry.route
        if house.is_dead(slot) or not self._may(slot, route) or self._is_wrong(slot):
            return
        met = house.peer(slot) is not None
        known = met or route.to.startswith(("head/", "@"))
        if not known or self._too_early(slot, route.sender, op):
            early = self._early.setdefault(slot, deque())
            if len(early) < MAX_EARLY:
                early.append((entry, op, frames))
            else:
                house.told(WireError(f"dropped what {slot} sends: nobody here was told of it yet"))
            return
        cell = house.cells.get(route.to)
        if cell is None:
            return
        take = cell.taker(route.sender, route.sender_port, route.port)
        if met and (house.is_up(slot) or not route.port):
            entry.take = take
        take(op, frames)

    def _is_wrong(self, slot: str) -> bool:
        """Tell whether a process that is not known cannot be one of this run; say so."""
        house = self._house
        if house.peer(slot) is not None or slot == HEAD_SLOT:
            return False
        wrong = self._strangers.spoke(slot, house.slots, house.clock.now())
        if wrong:
            house.told(WireError(wrong))
        self._look_again()
        return bool(wrong)

    def _look_again(self) -> None:
        due_s = self._strangers.due_s
        if due_s is not None and not self._looking:
            self._looking = True
            delay_s = max(0.0, due_s - self._house.clock.now())
            asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self._looking = False
        if not self._house.closed:
            for text in self._strangers.overdue(self._house.clock.now()):
                self._house.told(WireError(text))
            self._look_again()

    def _too_early(self, slot: str, sender: str, op: wire.AnyOp) -> bool:
        """Tell whether this must wait until more is known of who says it."""
        peer = self._house.peer(slot)
        if peer is not None and peer.guest and self._house.slot_of(sender) is None:
            return True  # an actor that it has just got
        if not isinstance(op, _NEEDS_UP):
            return False
        return not self._house.is_up(slot) or (peer is not None and sender in peer.coming)

    def _may(self, slot: str, route: wire.Route) -> bool:
        """Tell whether this process may say this: its own actors speak, the head alone orders."""
        house = self._house
        if route.to.startswith("@") and slot != HEAD_SLOT:
            house.told(WireError(f"refused an order to {route.to} from {slot}: it is not the head"))
            return False
        peer = house.peer(slot)
        if peer is not None:
            whose = house.slot_of(route.sender)
            right = whose == slot or (whose is None and peer.guest)
        else:  # what is for others than the head waits, and is looked at again
            right = not route.to.startswith("head/") or route.sender == member_of(slot)
        if not right:
            house.told(WireError(f"refused what {slot} sent in the name of {route.sender}"))
        return right
