"""The parameter server: opens slots for new versions, checks them, announces the newest.

    OpenSlot -> the slot of the oldest version      (the trainer writes the bytes)
    CommitVersion -> digest checked -> announced

The bytes are in shared memory that outlives this process: after a restart it reads what is there
and announces the newest whole version again, without the trainer's help. It never announces a
version whose digest differs, nor one that is not newer than the newest.

Waits for nothing. Knows nothing of models, steps or who reads.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec

from realnet import Actor, Config, StateOut, doc, handles
from realnet.errors import RealnetError
from realnet.message import Nothing
from realnet.roles.messages import Announced, CommitVersion, Held, OpenSlot, SlotOpened, Version
from realnet.roles.tables import Policy
from realnet.roles.weights import ArenaSlots


class ParameterServerConfig(Config):
    """`[roles.parameter_server]`."""

    slots: Annotated[int, doc("versions that memory has room for", ge=4)] = 4


class Note(msgspec.Struct):
    """What a restarted server needs to find its memory again. Lies in the run's folder."""

    arena: str
    slots: int
    slot_bytes: int
    attempt: int = 0  # memory vanishes with the run: the note of another attempt leads nowhere


class ParameterServer(Actor[ParameterServerConfig]):
    """Keeps the versions of one policy."""

    shared = (Policy,)
    announced = StateOut(Announced, joined_by="policy")

    async def start(self) -> None:
        """Take up the memory of a life before this one, if there is one."""
        self._arena: ArenaSlots | None = None
        self._held: dict[int, Held] = {}  # slot -> the whole version in it
        self._turn = asyncio.Lock()
        folder = self.run_info.folder
        self._note = folder / f"{self.address.role}-{self.address.index}.arena.json"
        note = read_note(self._note)
        if note is None or note.attempt != self.run_info.attempt:
            return
        await self._attach(note)
        newest = self._newest()
        if newest is not None:
            self.event(
                f"{self.address} serves {newest.manifest.version} again", held=len(self._held)
            )
            self._announce()

    async def stop(self) -> None:
        """Let go of the memory; it stays."""
        if self._arena is not None:
            self._arena.close()

    @handles
    async def open_slot(self, request: OpenSlot) -> SlotOpened:
        """Give out the slot of the oldest version, which is announced no more."""
        async with self._turn:
            self._check_newer(request.version)
            arena = await self._room(request.version.policy, request.num_bytes)
            slot = self._oldest(arena)
            if self._held.pop(slot, None) is not None:
                self._announce()
            arena.begin(slot)
            return SlotOpened(arena.location(slot))

    @handles
    async def commit_version(self, request: CommitVersion) -> Nothing:
        """Check the bytes, then announce them. Asking twice does no harm."""
        manifest, slot = request.manifest, request.location.slot
        async with self._turn:
            if any(held.manifest == manifest for held in self._held.values()):
                return Nothing()
            self._check_newer(manifest.version)
            arena = self._arena
            if arena is None or arena.generation(slot) != request.location.generation:
                raise RealnetError(
                    f"slot {slot} was not opened for {manifest.version}, or again since: open one "
                    "and write the version again"
                )
            start_s = self.clock.now()
            await self.compute(arena.commit, slot, manifest, label="check version")
            self._held[slot] = Held(manifest, arena.location(slot))
            self._announce()
            self.metrics(
                version=manifest.version.number,
                bytes=manifest.num_bytes,
                check_s=self.clock.now() - start_s,
            )
        return Nothing()

    # ------------------------------------------------------------ what is held

    def _newest(self) -> Held | None:
        return max(self._held.values(), key=_order, default=None)

    def _announce(self) -> None:
        """Show what is held: the newest, and the others from new to old."""
        ordered = sorted(self._held.values(), key=_order, reverse=True)
        self.announced.set(Announced(ordered[0] if ordered else None, tuple(ordered[1:])))
        if ordered:
            self.progress(f"serves {ordered[0].manifest.version}")

    def _check_newer(self, version: Version) -> None:
        newest = self._newest()
        if newest is None:
            return
        known = newest.manifest.version
        if (version.branch, version.number) <= (known.branch, known.number):
            raise RealnetError(
                f"{version} is not newer than {known}, which is announced: numbers of a branch "
                "only grow, and a trainer that resumes opens a new branch"
            )

    def _oldest(self, arena: ArenaSlots) -> int:
        """Return a slot that was never written, or is half written, or holds the oldest version."""
        free = [slot for slot in range(arena.slots) if slot not in self._held]
        if free:
            return min(free, key=lambda slot: (arena.generation(slot), slot))
        return min(self._held, key=lambda slot: _order(self._held[slot]))

    # ------------------------------------------------------------ memory

    async def _room(self, policy: str, num_bytes: int) -> ArenaSlots:
        """Return the arena, made at the first version's size."""
        slot_bytes = ArenaSlots.slot_bytes(num_bytes)
        if self._arena is None:
            attempt = self.run_info.attempt
            note = Note(f"weights-{policy}", self.config.slots, slot_bytes, attempt)
            await self._attach(note)
            write_note(self._note, note)
        arena = self._arena
        if arena is None or slot_bytes > arena.size:
            raise RealnetError(
                f"a version of {policy} with {num_bytes} bytes does not fit in the slots made for "
                "the first one: the weights of a policy cannot grow in a run"
            )
        return arena

    async def _attach(self, note: Note) -> None:
        path = await self.arena(note.arena, slot_bytes=note.slot_bytes, slots=note.slots)
        arena = ArenaSlots(path, note.slots, note.slot_bytes)
        self._arena = arena
        found = await self.compute(arena.scan, label="scan versions")
        self._held = {held.location.slot: held for held in found}


def _order(held: Held) -> tuple[int, int]:
    return held.manifest.version.branch, held.manifest.version.number


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
