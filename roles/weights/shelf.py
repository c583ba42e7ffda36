"""A shelf: the slots of one arena on this host, and the whole versions that are in them.

Its memory is the host's agent's: it outlives whoever opened it, and the next life finds what is
whole. Which slot is written next, `slots.py` decides; a shelf with one slot writes that one.

Knows arenas; knows nothing of wires, or of who writes and reads. Called by the parameter server's
desks and by relays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

from realnet.errors import RealnetError, ensure
from realnet.roles.messages import Held, Manifest, Version
from realnet.roles.weights.arena import ArenaSlots
from realnet.roles.weights.slots import choose_slot


class Surroundings(Protocol):
    """What a shelf needs of its actor."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def arena(self, name: str, *, slot_bytes: int, slots: int) -> Awaitable[str]: ...


class Shelf:
    """Versions in shared memory. `held`: slot -> the whole version in it."""

    def __init__(self, actor: Surroundings, slots: int) -> None:
        self._actor = actor
        self._slots = slots
        self._arena: ArenaSlots | None = None
        self.held: dict[int, Held] = {}

    @property
    def is_open(self) -> bool:
        """Whether there is memory."""
        return self._arena is not None

    @property
    def arena(self) -> ArenaSlots:
        """The memory, once it is there."""
        ensure(self._arena is not None, "a shelf was used before it was opened")
        assert self._arena is not None
        return self._arena

    async def open(
        self, name: str, slot_bytes: int, among: Collection[Manifest] | None = None
    ) -> None:
        """Make the memory, or find that of a life before, with what is whole in it.

        With `among`, only of these versions. The first size is the last.
        """
        if self._arena is not None:
            return
        path = await self._actor.arena(name, slot_bytes=slot_bytes, slots=self._slots)
        arena = self._arena = ArenaSlots(path, self._slots, slot_bytes)
        found = await self._actor.compute(arena.scan, label="scan versions")
        self.held = {h.location.slot: h for h in found if among is None or h.manifest in among}

    def check_room(self, version: Version, num_bytes: int) -> None:
        """Raise RealnetError for a version that is larger than the slots."""
        if ArenaSlots.slot_bytes(num_bytes) > self.arena.size:
            raise RealnetError(
                f"{version} with {num_bytes} bytes does not fit in the slots made for the first "
                "one: the weights of a policy cannot grow in a run"
            )

    def choose(self) -> int:
        """Return the slot to write next; what is in it stays until `drop`."""
        if self._slots == 1:
            return 0
        arena = self.arena
        return choose_slot(
            *(range(arena.slots), self.held, arena.generation, arena.leased),
            lambda slot: order(self.held[slot]),
        )

    def drop(self, slot: int) -> Held | None:
        """Hold what is in a slot no more; return it."""
        return self.held.pop(slot, None)

    def put(self, slot: int, manifest: Manifest) -> Held:
        """Hold what was committed to a slot."""
        held = self.held[slot] = Held(manifest, self.arena.location(slot))
        return held

    def newest(self) -> Held | None:
        """Return the newest version."""
        return max(self.held.values(), key=order, default=None)

    def newest_first(self) -> list[Held]:
        """Return all versions."""
        return sorted(self.held.values(), key=order, reverse=True)

    def find(self, version: Version) -> Held | None:
        """Return a version, if it is here."""
        return next((h for h in self.held.values() if h.manifest.version == version), None)

    def close(self) -> None:
        """Let go of the memory; it stays."""
        if self._arena is not None:
            self._arena.close()


def order(held: Held) -> tuple[int, int]:
    """Return what versions are ordered by."""
    return held.manifest.version.branch, held.manifest.version.number
