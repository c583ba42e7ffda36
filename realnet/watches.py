"""Who watches whom, decided without IO: lives come up and go down, deaths are told.

A watch is of one life (an incarnation). It hears of that life's end exactly once: when it is
reported, when a later life shows that it must be over, or at once if it is over already. Whoever
names no incarnation means the present life; if there is none now, that is told at once, with the
last death's cause. A life that nobody here has heard of yet gets a moment to be announced (its name
may travel faster than the head's word) and is then told as never there.

Of the dead only the last life of each name is remembered, and of a bounded number of names.

Knows nothing of processes, clocks or tasks. One per process, kept by `watching.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from realnet.address import Address

MAX_NAMES = 10_000
Key = tuple[str, int, int]  # role, index, rank


class Death(NamedTuple):
    """What a watcher hears. `address` has the incarnation that ended; 0 if there never was one."""

    address: Address
    why: str

    def __str__(self) -> str:
        return f"{self.address} is gone: {self.why}"


class Tell(NamedTuple):
    """Effect: this watch hears of this death. It is over then."""

    watch: int
    death: Death


@dataclass
class _Name:
    """What is known of one role/index: its present life and the last that ended (-1: none)."""

    present: int = -1
    ended: int = -1
    why: str = ""
    watches: dict[int, int] = field(default_factory=dict)  # watch -> incarnation


class Watches:
    """The watches of one process, and the lives it has heard of."""

    def __init__(self, max_names: int = MAX_NAMES):
        self._names: dict[Key, _Name] = {}
        self._where: dict[int, Key] = {}  # watch -> the name it is under
        self._next = 0
        self._max_names = max_names

    @property
    def open(self) -> int:
        """How many watches have heard nothing yet."""
        return len(self._where)

    def up(self, address: Address) -> list[Tell]:
        """A life can be reached. An earlier one is over then, whether or not that was told."""
        name = self._name(address)
        if address.incarnation <= max(name.present, name.ended):
            return []  # old news
        name.present = address.incarnation
        why = f"its next life, {address.full}, took its place"
        return self._over(address, name, address.incarnation - 1, why)

    def down(self, address: Address, why: str) -> list[Tell]:
        """A life is over; earlier ones of the same name are as well."""
        name = self._name(address)
        if address.incarnation > name.ended:
            name.ended, name.why = address.incarnation, why
        if address.incarnation >= name.present:
            name.present = -1
        effects = self._over(address, name, address.incarnation, why)
        self._forget_some()
        return effects

    def watch(self, address: Address) -> tuple[int, list[Tell]]:
        """Watch a life; 0 as incarnation means the present one. Returns the watch's number.

        If no effect tells it at once and `is_known` says no, call `unheard` a moment later.
        """
        self._next += 1
        number = self._next
        name = self._name(address)
        life = address.incarnation or name.present
        if life < 0 or (not life and name.present):
            why = name.why or "it is not there, and nobody here has heard of it"
            told = Death(_life(address, max(0, name.ended)), why)
            self._forget_some()
            return number, [Tell(number, told)]
        life_at = _life(address, life)
        if life <= name.ended or life < name.present:
            why = name.why if life == name.ended else "it ended before a later life of its name"
            return number, [Tell(number, Death(life_at, why))]
        name.watches[number] = life
        self._where[number] = _key(address)
        return number, []

    def is_known(self, watch: int) -> bool:
        """Tell whether an open watch is of a life that was heard of."""
        key = self._where.get(watch)
        if key is None:
            return True
        name = self._names[key]
        return name.watches[watch] <= name.present

    def unheard(self, watch: int) -> list[Tell]:
        """The moment is over: a life that nobody has announced is told as never there."""
        if self.is_known(watch):
            return []
        role, index, rank = key = self._where.pop(watch)
        life = self._names[key].watches.pop(watch)
        why = "it is not there, and nobody here has heard of it"
        return [Tell(watch, Death(Address(role, index, life, rank), why))]

    def cancel(self, watch: int) -> None:
        """Whoever watched wants to hear nothing any more."""
        key = self._where.pop(watch, None)
        if key is not None:
            self._names[key].watches.pop(watch, None)
            self._forget_some()

    def _name(self, address: Address) -> _Name:
        return self._names.setdefault(_key(address), _Name())

    def _over(self, address: Address, name: _Name, upto: int, why: str) -> list[Tell]:
        """Tell, once, whoever watches a life of this name up to incarnation `upto`."""
        told = [(number, life) for number, life in name.watches.items() if life <= upto]
        for number, _ in told:
            del name.watches[number]
            del self._where[number]
        return [Tell(number, Death(_life(address, life), why)) for number, life in told]

    def _forget_some(self) -> None:
        """Beyond the bound, forget names that are dead and not watched, longest known first."""
        if len(self._names) <= self._max_names:
            return
        for key, name in list(self._names.items()):
            if name.present < 0 and not name.watches:
                del self._names[key]
                if len(self._names) <= self._max_names:
                    return


def _key(address: Address) -> Key:
    return (address.role, address.index, address.rank)


def _life(address: Address, incarnation: int) -> Address:
    return Address(address.role, address.index, incarnation, address.rank)
