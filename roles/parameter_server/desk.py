"""A desk: where versions are handed in. Opens a slot, takes what is written, checks it, keeps it.

    OpenSlot -> a slot       WriteRuns -> bytes from another host
    CommitVersion, CommitPart -> digests checked, slices tile -> held

A server has one desk for versions and one for the bases that versions of adapters are laid over.
A desk that is opened again finds the memory of its life before by a note in the run's folder.

Knows its shelf and what is being written (`openings.py`); knows nothing of who reads. Called by the
parameter server, one request at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from realnet.actor import RunInfo
from realnet.errors import RealnetError
from realnet.roles.messages import (
    CommitPart,
    Committed,
    CommitVersion,
    Held,
    Location,
    Manifest,
    OpenSlot,
    SlotOpened,
    Version,
    WriteRuns,
)
from realnet.roles.parameter_server.openings import Opening, check_part
from realnet.roles.weights import ArenaSlots, WeightsDamaged, seal
from realnet.roles.weights.shelf import Shelf
from realnet.roles.weights.slices import digest_part
from realnet.roles.weights.upload import unpack


class Surroundings(Protocol):
    """What a desk needs of its actor."""

    run_info: RunInfo

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def arena(self, name: str, *, slot_bytes: int, slots: int) -> Awaitable[str]: ...


class Note(msgspec.Struct):
    """What a restarted server needs to find its memory again. Lies in the run's folder."""

    arena: str
    slots: int
    slot_bytes: int
    attempt: int = 0  # memory vanishes with the run: the note of another attempt leads nowhere


class Desk:
    """Where versions of one kind are handed in. `name` is that of its memory."""

    def __init__(
        self,
        actor: Surroundings,
        name: str,
        slots: int,
        host: str,
        note: Path,
        links: tuple[str, ...] = (),
    ) -> None:
        self.shelf = Shelf(actor, slots)
        self._actor = actor
        self._name = name
        self._slots = slots
        self._host = host
        self._note = note
        self._links = links
        self._opening: Opening | None = None

    async def reopen(self) -> bool:
        """Take up the memory of a life before this one; tell whether there is any."""
        note = read_note(self._note)
        if note is None or note.attempt != self._actor.run_info.attempt:
            return False
        await self.shelf.open(note.arena, note.slot_bytes)
        return True

    def is_at(self, where: Location) -> bool:
        """Tell whether a slot is one of this desk's."""
        return self.shelf.is_open and self.shelf.arena.path == where.path

    async def open(self, request: OpenSlot, dropped: Callable[[Held], None]) -> SlotOpened:
        """Give out a slot; `dropped` is told what was in it, before it is written."""
        await self._room(request.version, request.num_bytes)
        shelf, opening = self.shelf, self._opening
        if opening is not None and opening.joined_by(request):
            return self._opened(opening.slot)
        # A slot whose writer died: what is there is void.
        slot = opening.slot if opening is not None else shelf.choose()
        was = shelf.drop(slot)
        if was is not None:
            dropped(was)
        writing = shelf.arena.begin(slot)
        self._opening = Opening(request.version, slot, writing, request.writers)
        self._opening.joined_by(request)
        return self._opened(slot)

    def _opened(self, slot: int) -> SlotOpened:
        return SlotOpened(self.shelf.arena.location(slot), self._host, links=self._links)

    def write(self, request: WriteRuns) -> None:
        """Write what a publisher on another host sends."""
        arena = self._being_written(request.version, request.location)
        with arena.view(request.location.slot) as view:
            unpack(request, view)

    def has(self, manifest: Manifest) -> bool:
        """Tell whether this is held, so that asking twice does no harm."""
        return any(held.manifest == manifest for held in self.shelf.held.values())

    async def commit(self, request: CommitVersion) -> Held:
        """Check a whole version."""
        manifest, slot = request.manifest, request.location.slot
        arena = self._being_written(manifest.version, request.location)
        await self._actor.compute(arena.commit, slot, manifest, label="check version")
        return self._kept(slot, manifest)

    async def commit_part(self, request: CommitPart) -> tuple[Committed, Held | None]:
        """Check one writer's slices; with the last of them the version is whole."""
        part, where = request.part, request.location
        arena = self._being_written(part.version, where)
        opening = self._opening
        if opening is None or opening.generation != where.generation:  # of our life before
            opening = Opening(part.version, where.slot, where.generation, request.writers)
            self._opening = opening
        opening.writers = request.writers  # who opened it may speak for all of them
        check_part(part, arena.size)
        with arena.view(where.slot) as view:
            found = await self._actor.compute(digest_part, part, view, label="check part")
        if found != part.digest:
            raise WeightsDamaged(
                f"what writer {request.writer} wrote of {part.version} is damaged (digest "
                "differs): write it again"
            )
        opening.parts[request.writer] = part
        if opening.missing:
            return Committed(False, opening.missing), None
        return Committed(True), await self._commit_whole(arena, opening)

    async def _commit_whole(self, arena: ArenaSlots, opening: Opening) -> Held:
        """All writers are done: make one manifest of theirs."""
        try:
            plan = opening.whole()
        except RealnetError:
            opening.parts.clear()  # who writes again brings all of it again
            raise
        with arena.view(opening.slot) as view:
            manifest = await self._actor.compute(seal, plan, view, label="check version")
        arena.commit(opening.slot, manifest, verified=True)
        return self._kept(opening.slot, manifest)

    def _kept(self, slot: int, manifest: Manifest) -> Held:
        self._opening = None
        return self.shelf.put(slot, manifest)

    def _being_written(self, version: Version, where: Location) -> ArenaSlots:
        """Return the arena if this slot is still open for this version."""
        arena = self.shelf.arena if self.shelf.is_open else None
        if (
            arena is None
            or not 0 <= where.slot < arena.slots
            or where.generation % 2 == 0
            or arena.generation(where.slot) != where.generation
        ):
            raise RealnetError(
                f"slot {where.slot} was not opened for {version}, or again since: open one and "
                "write the version again"
            )
        return arena

    async def _room(self, version: Version, num_bytes: int) -> None:
        """Have memory, made at the first version's size."""
        if not self.shelf.is_open:
            slot_bytes = ArenaSlots.slot_bytes(num_bytes)
            note = Note(self._name, self._slots, slot_bytes, self._actor.run_info.attempt)
            await self.shelf.open(note.arena, note.slot_bytes)
            write_note(self._note, note)
        self.shelf.check_room(version, num_bytes)


def read_note(path: Path) -> Note | None:
    """Return the note of an earlier life; None when there is none that reads."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None


def write_note(path: Path, note: Note) -> None:
    """Write the note, whole or not at all."""
    part = path.with_suffix(".tmp")
    part.write_bytes(msgspec.json.encode(note))
    part.replace(path)
