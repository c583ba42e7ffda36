"""Names of actors: role, index and incarnation.

The incarnation grows at every restart of an instance, so that a late word from a dead one is never
taken for its successor's. Knows nothing of sockets. Used by everything that sends or is sent to.
"""

from __future__ import annotations

from dataclasses import dataclass

from realnet.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One life of one role instance; prints as "generator/0"."""

    role: str
    index: int
    incarnation: int = 0

    def __str__(self) -> str:
        return f"{self.role}/{self.index}"

    @property
    def full(self) -> str:
        """The address with its incarnation, "generator/0~2", as it stands on the wire."""
        return f"{self.role}/{self.index}~{self.incarnation}"


def parse_address(text: str) -> Address:
    """Read "generator/0" or "generator/0~2". Raises ConfigError naming the text."""
    name, _, incarnation = text.partition("~")
    role, slash, index = name.rpartition("/")
    if not slash or not index.isdigit() or not (incarnation or "0").isdigit():
        raise ConfigError(f"{text!r} is not an address: write role/index, for example generator/0")
    return Address(role, int(index), int(incarnation or 0))
