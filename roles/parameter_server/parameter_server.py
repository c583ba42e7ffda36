"""The parameter server: opens slots for new versions, checks them, announces the newest.

    OpenSlot -> the slot of the oldest version      (the trainer writes the bytes)
    CommitVersion, CommitPart -> digests checked, slices tile -> announced
    FetchVersion -> the bytes, in chunks            (readers on other hosts)
    CopyHeld -> a relay's copy is announced too

The bytes are in shared memory that outlives this process: after a restart it reads what is there
and announces the newest whole version again, without the trainer's help. It never announces a
version whose digest differs, nor one that is not newer than the newest.

Waits for nothing: readers that lag or die lose their slot when it is the last one. Knows nothing of
models, steps or who reads. `openings.py` and `copies.py` decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from realnet import Actor, Config, StateOut, doc, handles
from realnet.actor import Beside, Need, Place
from realnet.config import Seconds, Shared
from realnet.errors import RealnetError
from realnet.message import Nothing
from realnet.roles.messages import (
    Announced,
    Chunk,
    CommitPart,
    Committed,
    CommitVersion,
    CopyHeld,
    FetchVersion,
    Held,
    JoinUpdate,
    Location,
    Manifest,
    OpenSlot,
    SlotOpened,
    Source,
    Turn,
    UpdateEnded,
    Version,
    WriteRuns,
)
from realnet.roles.models import memory
from realnet.roles.parameter_server.copies import Copies
from realnet.roles.parameter_server.openings import Opening, check_part
from realnet.roles.tables import Policy
from realnet.roles.weights import ArenaSlots, WeightReader, WeightsDamaged, WeightsGone, disk, seal
from realnet.roles.weights.slices import digest_part
from realnet.roles.weights.slots import choose_slot
from realnet.roles.weights.sources import links_in_words, this_host
from realnet.roles.weights.stream import chunks
from realnet.roles.weights.updates import COLLECTIVE, Updates
from realnet.roles.weights.upload import unpack

Link = Literal["shm", "stream", "disk", "gloo", "nccl"]


class ParameterServerConfig(Config):
    """`[roles.parameter_server]`."""

    slots: Annotated[int, doc("versions that memory has room for", ge=4)] = 4
    links: Annotated[
        tuple[Link, ...],
        doc(
            "how readers may have versions, each by the nearest: shm (same host), stream (over the "
            "network), disk (safetensors in the run's folder), gloo or nccl (a broadcast)"
        ),
    ] = ("shm", "stream")
    address: Annotated[str, doc("of this host, where gloo and nccl find each other")] = "127.0.0.1"
    patience: Annotated[Seconds, doc("how long a broadcast waits for the slowest")] = Seconds(5)
    timeout: Annotated[Seconds, doc("after which a broadcast that stands still has failed")] = (
        Seconds(30)
    )
    keep: Annotated[int, doc('versions that stay on disk, with "disk"', ge=1)] = 4

    def __post_init__(self) -> None:
        """Refuse a server that nobody can read from."""
        if not self.links:
            raise ValueError('links = []: nobody could have a version; write ["shm", "stream"]')


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

    @classmethod
    def needs(
        cls, config: ParameterServerConfig, shared: dict[type[Shared], Any], place: Place
    ) -> Need:
        """Count the versions that memory has room for."""
        policy = shared[Policy]
        shape = memory.known_shape(policy, place.base)
        if shape is None:
            return Need(unknown=memory.UNREAD)
        versions = config.slots * memory.num_weights(shape) * memory.WIDTH[policy.dtype]
        return Need(versions, parts={"versions": versions})

    @classmethod
    def remarks(
        cls,
        config: ParameterServerConfig,
        shared: dict[type[Shared], Any],
        beside: Mapping[str, Beside],
    ) -> list[str]:
        """Say by which links versions will be had, and who relays them."""
        return links_in_words(config.links, [n for n, b in beside.items() if b.kind == "relay"])

    async def start(self) -> None:
        """Take up the memory of a life before this one, if there is one."""
        self._arena: ArenaSlots | None = None
        self._held: dict[int, Held] = {}  # slot -> the whole version in it
        self._opening: Opening | None = None
        self._copies = Copies()
        self._turn = asyncio.Lock()
        self._host = this_host()
        self._file_wanted = asyncio.Event()
        self._updates: dict[str, Updates] = {
            link: Updates(
                *(self, link),
                host=self.config.address,
                patience_s=self.config.patience,
                timeout_s=self.config.timeout,
                watch=self.watch,
            )
            for link in COLLECTIVE
            if link in self.config.links
        }
        folder = self.run_info.folder
        self._files = folder / "weights"
        if "disk" in self.config.links:
            self._copies.files = await self.compute(self._found_files, label="look at files")
            self.spawn(self._write_files(), name="write files")
        self._note = folder / f"{self.address.role}-{self.address.index}.arena.json"
        note = read_note(self._note)
        if note is None or note.attempt != self.run_info.attempt:
            if self._copies.files:
                self._announce()
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
        for updates in self._updates.values():
            await updates.close()
        if self._arena is not None:
            self._arena.close()

    # ------------------------------------------------------------ writing

    @handles
    async def open_slot(self, request: OpenSlot) -> SlotOpened:
        """Give out the slot of the oldest version, which is announced no more."""
        async with self._turn:
            self._check_newer(request.version)
            arena = await self._room(request.version.policy, request.num_bytes)
            opening = self._opening
            if opening is not None and opening.joined_by(request):
                return SlotOpened(arena.location(opening.slot), self._host)
            if opening is not None:  # its writer died: what is there is void
                slot = opening.slot
            else:
                slot = choose_slot(
                    *(range(arena.slots), self._held, arena.generation, arena.leased),
                    lambda s: _order(self._held[s]),
                )
            if self._held.pop(slot, None) is not None:
                self._announce()
            writing = arena.begin(slot)
            self._opening = Opening(request.version, slot, writing, request.writers)
            self._opening.joined_by(request)
            return SlotOpened(arena.location(slot), self._host)

    @handles
    async def write_runs(self, request: WriteRuns) -> Nothing:
        """Write what a publisher on another host sends."""
        arena = self._being_written(request.version, request.location)
        with arena.view(request.location.slot) as view:
            unpack(request, view)
        return Nothing()

    @handles
    async def commit_version(self, request: CommitVersion) -> Nothing:
        """Check the bytes, then announce them. Asking twice does no harm."""
        manifest, slot = request.manifest, request.location.slot
        async with self._turn:
            if any(held.manifest == manifest for held in self._held.values()):
                return Nothing()
            self._check_newer(manifest.version)
            arena = self._being_written(manifest.version, request.location)
            start_s = self.clock.now()
            await self.compute(arena.commit, slot, manifest, label="check version")
            self._committed(Held(manifest, arena.location(slot)), start_s)
        return Nothing()

    @handles
    async def commit_part(self, request: CommitPart) -> Committed:
        """Check one writer's slices; with the last of them the version is whole."""
        part, where = request.part, request.location
        async with self._turn:
            if any(held.manifest.version == part.version for held in self._held.values()):
                return Committed(True)
            self._check_newer(part.version)
            arena = self._being_written(part.version, where)
            opening = self._opening
            if opening is None or opening.generation != where.generation:  # of our life before
                opening = Opening(part.version, where.slot, where.generation, request.writers)
                self._opening = opening
            opening.writers = request.writers  # who opened it may speak for all of them
            check_part(part, arena.size)
            start_s = self.clock.now()
            with arena.view(where.slot) as view:
                found = await self.compute(digest_part, part, view, label="check part")
            if found != part.digest:
                raise WeightsDamaged(
                    f"what writer {request.writer} wrote of {part.version} is damaged (digest "
                    "differs): write it again"
                )
            opening.parts[request.writer] = part
            if opening.missing:
                return Committed(False, opening.missing)
            await self._commit_whole(arena, opening, start_s)
        return Committed(True)

    async def _commit_whole(self, arena: ArenaSlots, opening: Opening, start_s: float) -> None:
        """All writers are done: make one manifest of theirs."""
        try:
            plan = opening.whole()
        except RealnetError:
            opening.parts.clear()  # who writes again brings all of it again
            raise
        with arena.view(opening.slot) as view:
            manifest = await self.compute(seal, plan, view, label="check version")
        canary = next((p.canary for p in opening.parts.values() if p.canary is not None), None)
        manifest = msgspec.structs.replace(manifest, canary=canary)
        arena.commit(opening.slot, manifest, verified=True)
        self._committed(Held(manifest, arena.location(opening.slot)), start_s)

    def _being_written(self, version: Version, where: Location) -> ArenaSlots:
        """Return the arena if this slot is still open for this version."""
        arena = self._arena
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

    def _committed(self, held: Held, start_s: float) -> None:
        self._held[held.location.slot] = held
        self._opening = None
        for updates in self._updates.values():
            updates.offer(held)
        self._announce()
        self._file_wanted.set()
        self.metrics(
            version=held.manifest.version.number,
            bytes=held.manifest.num_bytes,
            check_s=self.clock.now() - start_s,
        )

    # ------------------------------------------------------------ reading

    @handles
    async def fetch_version(self, request: FetchVersion) -> AsyncIterator[Chunk]:
        """Stream a version from memory. Its slot has a lease meanwhile."""
        held = self._find(request.version)
        if held is None or held.manifest.digest != request.digest:
            raise WeightsGone(f"{request.version} is not held any more: take the newest version")
        reader = WeightReader()
        try:
            with reader.mapped(held) as view:
                for chunk in chunks(held.manifest, view, request.offset_bytes):
                    yield chunk
        finally:
            reader.close()

    @handles
    async def join_update(self, request: JoinUpdate) -> Turn:
        """A generator waits here until a broadcast begins."""
        updates = self._updates.get(request.link)
        if updates is None:
            return Turn(0, 0, 0, why=f"{self.address} has no link {request.link!r}")
        return await updates.join(request)

    @handles
    async def update_ended(self, request: UpdateEnded) -> Nothing:
        """A broadcast is over for a member."""
        for updates in self._updates.values():
            updates.ended(request)
        return Nothing()

    @handles
    async def copy_held(self, request: CopyHeld) -> Nothing:
        """A relay says what it has: readers on its host are sent there."""
        if self._copies.said(request):
            self.event(f"{request.relay} keeps a copy of the weights for {request.host}")
            self.spawn(self._mourn(request.relay), name=f"watch {request.relay}")
        self._announce()
        return Nothing()

    async def _mourn(self, relay: str) -> None:
        await self.watch(relay)
        self._copies.died(relay)
        self._announce()

    async def _write_files(self) -> None:
        """Write the newest version to disk, whenever there is one that is not there."""
        while True:
            async with self.waiting("a version to write to disk"):
                await self._file_wanted.wait()
            self._file_wanted.clear()
            held = self._newest()
            if held is None or held.manifest.version in self._copies.files:
                continue
            try:
                # Beside the compute thread: what a trainer publishes meanwhile is checked there.
                stay = await asyncio.to_thread(_write_file, self._files, held, self.config.keep)
            except (OSError, WeightsGone) as error:
                self.event(f"{held.manifest.version} was not written to disk: {error}")
                continue
            self._copies.files[held.manifest.version] = self._filed(held.manifest)
            paths = {v: disk.path_of(self._files, v) for v in self._copies.files}
            self._copies.files = {v: h for v, h in self._copies.files.items() if paths[v] in stay}
            self._announce()

    def _filed(self, manifest: Manifest) -> Held:
        source = Source("disk", "", str(disk.path_of(self._files, manifest.version)))
        return Held(manifest, Location("", 0, 0), (source,))

    def _found_files(self) -> dict[Version, Held]:
        """Return the versions that an earlier life left in files: whole ones, by their heads.

        Who takes one checks its digests.
        """
        policy = self.policy_name or "policy"
        found = [disk.read_manifest(p) for p in disk.files_of(self._files, policy)]
        return {m.version: self._filed(m) for m in found[-self.config.keep :] if m is not None}

    # ------------------------------------------------------------ what is held

    def _newest(self) -> Held | None:
        return max(self._held.values(), key=_order, default=None)

    def _announce(self) -> None:
        """Show what is held: the newest, and the others from new to old, those on disk too.

        What an earlier attempt left on disk is never the newest: a trainer that resumes opens a
        branch of its own.
        """
        ordered = sorted(map(self._with_sources, self._held.values()), key=_order, reverse=True)
        newest = ordered[0] if ordered else None
        filed = self._copies.only_filed({held.manifest.version for held in ordered})
        older = sorted((*ordered[1:], *filed), key=_order, reverse=True)
        self.announced.set(Announced(newest, tuple(older), self._copies.hosts))
        if newest is not None:
            self.progress(f"serves {newest.manifest.version}")

    def _find(self, version: Version) -> Held | None:
        return next((h for h in self._held.values() if h.manifest.version == version), None)

    def _with_sources(self, held: Held) -> Held:
        """Say by which links a version can be had."""
        links, mine = self.config.links, []
        if "shm" in links:
            mine.append(Source("shm", self._host, "", held.location))
        if "stream" in links:
            mine.append(Source("stream", "", str(self.address)))
        if held is self._newest():
            mine += [Source(link, "", str(self.address)) for link in self._updates]
        copies = self._copies.of(held.manifest.version)
        return msgspec.structs.replace(held, sources=(*mine, *copies))

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


def _write_file(folder: Path, held: Held, number: int) -> list[Path]:
    """Write a version, under a lease; return the files that stay."""
    reader = WeightReader()
    try:
        with reader.mapped(held) as view:
            disk.write(folder, held.manifest, view)
    finally:
        reader.close()
    return disk.keep(folder, held.manifest.version.policy, number)


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
