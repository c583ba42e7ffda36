"""Names of actors: role, index and incarnation.

The incarnation grows at every restart of an instance, so that a late word from a dead one is never
taken for its successor's. Knows nothing of sockets. Used by everything that sends or is sent to.
"""

from __future__ import annotations

from dataclasses import dataclass

from realnet.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One life of one role instance; prints as "generator/0", or "trainer/0.2" for a rank.

    A gang goes by its leader, rank 0; the other ranks are for themselves only.
    """

    role: str
    index: int
    incarnation: int = 0
    rank: int = 0

    def __str__(self) -> str:
        rank = f".{self.rank}" if self.rank else ""
        return f"{self.role}/{self.index}{rank}"

    @property
    def full(self) -> str:
        """The address with its incarnation, "generator/0~2", as it stands on the wire."""
        return f"{self}~{self.incarnation}"


def parse_address(text: str) -> Address:
    """Read "generator/0" or "generator/0~2". Raises ConfigError naming the text."""
    name, _, incarnation = text.partition("~")
    role, slash, place = name.rpartition("/")
    index, dot, rank = place.partition(".")
    numbers = (index, incarnation or "0", rank if dot else "0")
    if not slash or not all(n.isdecimal() for n in numbers):
        raise ConfigError(f"{text!r} is not an address: write role/index, for example generator/0")
    return Address(role, int(index), int(incarnation or 0), int(rank or 0))
