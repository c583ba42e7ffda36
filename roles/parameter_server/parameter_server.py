"""The parameter server: opens slots for new versions, checks them, announces the newest.

    OpenSlot -> the slot of the oldest version      (the trainer writes the bytes)
    CommitVersion, CommitPart -> digests checked, slices tile -> announced
    FetchVersion -> the bytes, in chunks            (readers on other hosts)
    CopyHeld -> a relay's copy is announced too

Where adapters are trained a version is of adapters alone; what it is laid over, the base, is
written once, into memory of its own, and announced beside the versions.

The bytes are in shared memory that outlives this process: after a restart it reads what is there
and announces the newest whole version again, without the trainer's help. It never announces a
version whose digest differs, nor one that is not newer than the newest.

Waits for nothing: readers that lag or die lose their slot when it is the last one. Knows nothing of
models, steps or who reads. Versions are handed in at a desk (`desk.py`), kept on a shelf and in
files (`filing.py`); relays' copies are in `copies.py`.
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
from realnet.errors import ConfigError, RealnetError
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
from realnet.roles.parameter_server.desk import Desk
from realnet.roles.parameter_server.filing import Filing
from realnet.roles.tables import Policy
from realnet.roles.weights import WeightReader, WeightsGone
from realnet.roles.weights.adapters import base_of, base_version, is_base, memory_name
from realnet.roles.weights.shelf import order
from realnet.roles.weights.sources import links_in_words, this_host
from realnet.roles.weights.stream import chunks
from realnet.roles.weights.updates import COLLECTIVE, Updates

Link = Literal["cuda_ipc", "shm", "stream", "disk", "gloo", "nccl"]


class ParameterServerConfig(Config):
    """`[roles.parameter_server]`."""

    slots: Annotated[int, doc("versions that memory has room for", ge=4)] = 4
    links: Annotated[
        tuple[Link, ...],
        doc(
            "how readers may have versions, each by the nearest: cuda_ipc (same GPU as the "
            "trainer), shm (same host), stream (over the network), disk (safetensors in the run's "
            "folder), gloo or nccl (a broadcast)"
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
        if set(self.links) == {"cuda_ipc"}:
            raise ValueError(
                'links = ["cuda_ipc"]: who comes late, or wants an older version, could not have '
                'it; write ["cuda_ipc", "shm"]'
            )


class ParameterServer(Actor[ParameterServerConfig]):
    """Keeps the versions of one policy."""

    shared = (Policy,)
    announced = StateOut(Announced, joined_by="policy")

    @classmethod
    def needs(
        cls, config: ParameterServerConfig, shared: dict[type[Shared], Any], place: Place
    ) -> Need:
        """Count the versions that memory has room for."""
        return memory.shelf_need(shared[Policy], place, config.slots)

    @classmethod
    def probe(
        cls, config: ParameterServerConfig, shared: dict[type[Shared], Any], base: Path
    ) -> None:
        """Refuse NCCL where it cannot work: every broadcast would fail, one by one."""
        if "nccl" not in config.links:
            return
        from realnet.roles.weights import nccl  # and torch, which no other link needs here

        try:
            nccl.check()
        except nccl.NoNccl as error:
            raise ConfigError(f"[roles.parameter_server] {error}") from None

    @classmethod
    def remarks(
        cls,
        config: ParameterServerConfig,
        shared: dict[type[Shared], Any],
        beside: Mapping[str, Beside],
    ) -> list[str]:
        """Say by which links versions will be had, and who relays them."""
        relays = [name for name, role in beside.items() if role.kind == "relay"]
        adapters = memory.trained_adapters(beside) is not None
        return links_in_words(config.links, relays, adapters=adapters)

    async def start(self) -> None:
        """Take up the memory of a life before this one, if there is one."""
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
        folder, policy = self.run_info.folder, self.policy_name or "policy"
        self._files = Filing(folder / "weights", policy, self.config.keep)
        if "disk" in self.config.links:
            await self.compute(self._files.find, label="look at files")
            self.spawn(self._write_files(), name="write files")
        note, host = folder / f"{self.address.role}-{self.address.index}", self._host
        mine = Version(policy, 0, 0)
        self._versions = Desk(
            *(self, memory_name(mine), self.config.slots, host, Path(f"{note}.arena.json")),
            self.config.links,
        )
        self._bases = Desk(
            self, memory_name(base_version(mine)), 1, host, Path(f"{note}.base.json")
        )
        again = [await desk.reopen() for desk in (self._versions, self._bases)]
        newest = self._versions.shelf.newest()
        if newest is not None:
            self.event(
                f"{self.address} serves {newest.manifest.version} again",
                held=len(self._versions.shelf.held),
            )
        if any(again) or self._files.versions:
            self._announce()

    async def stop(self) -> None:
        """Let go of the memory; it stays."""
        for updates in self._updates.values():
            await updates.close()
        for desk in (self._versions, self._bases):
            desk.shelf.close()

    # ------------------------------------------------------------ writing

    @handles
    async def open_slot(self, request: OpenSlot) -> SlotOpened:
        """Give out the slot of the oldest version, which is announced no more."""
        async with self._turn:
            if not request.key:
                self._check_newer(request.version)
                return await self._versions.open(request, lambda held: self._announce())
            held = next(
                (h for h in self._bases.shelf.held.values() if h.manifest.key == request.key), None
            )
            if held is not None:
                return SlotOpened(held.location, self._host, held.manifest)
            self._check_late_comers()
            return await self._bases.open(request, self._base_dropped)

    @handles
    async def write_runs(self, request: WriteRuns) -> Nothing:
        """Write what a publisher on another host sends."""
        self._desk_of(request.location).write(request)
        return Nothing()

    @handles
    async def commit_version(self, request: CommitVersion) -> Nothing:
        """Check the bytes, then announce them. Asking twice does no harm."""
        manifest, desk = request.manifest, self._desk_of(request.location)
        async with self._turn:
            if desk.has(manifest):
                return Nothing()
            self._check_placed(manifest)
            start_s = self.clock.now()
            self._committed(await desk.commit(request), start_s)
        return Nothing()

    @handles
    async def commit_part(self, request: CommitPart) -> Committed:
        """Check one writer's slices; with the last of them the version is whole."""
        part, desk = request.part, self._desk_of(request.location)
        async with self._turn:
            if desk.shelf.find(part.version) is not None:
                return Committed(True)
            self._check_placed(part)
            start_s = self.clock.now()
            said, held = await desk.commit_part(request)
            if held is not None:
                self._committed(held, start_s)
            return said

    def _desk_of(self, where: Location) -> Desk:
        return self._bases if self._bases.is_at(where) else self._versions

    def _committed(self, held: Held, start_s: float) -> None:
        if not is_base(held.manifest.version):
            for updates in self._updates.values():
                updates.offer(held)
            self._file_wanted.set()
        self._announce()
        self.metrics(
            version=held.manifest.version.number,
            bytes=held.manifest.num_bytes,
            check_s=self.clock.now() - start_s,
            base=float(is_base(held.manifest.version)),
        )

    def _base_dropped(self, base: Held) -> None:
        """Another base is written where this one was: what is laid over it is of no use."""
        shelf = self._versions.shelf
        for slot, held in list(shelf.held.items()):
            over = held.manifest.over
            if over is not None and over.digest == base.manifest.digest:
                shelf.drop(slot)
        self._announce()

    def _check_placed(self, manifest: Manifest) -> None:
        """Refuse what is old, and adapters whose base is not here."""
        if is_base(manifest.version):
            return
        self._check_newer(manifest.version)
        over = manifest.over
        if over is not None and base_of(over, self._bases.shelf.held.values()) is None:
            raise RealnetError(
                f"{manifest.version} is laid over {over.base}, which is not held: write that first"
            )

    def _check_late_comers(self) -> None:
        """Refuse a base that nobody could have: broadcasts carry versions alone."""
        if not {"shm", "stream", "disk"}.intersection(self.config.links):
            raise RealnetError(
                f"[roles.parameter_server].links = {list(self.config.links)}: versions of adapters "
                'go by a broadcast, but what they are laid over does not: add "stream"'
            )

    # ------------------------------------------------------------ reading

    @handles
    async def fetch_version(self, request: FetchVersion) -> AsyncIterator[Chunk]:
        """Stream a version from memory. Its slot has a lease meanwhile."""
        desk = self._bases if is_base(request.version) else self._versions
        held = desk.shelf.find(request.version)
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
            how = "keeps a copy of the weights for" if request.awaited else "lends versions on"
            self.event(f"{request.relay} {how} {request.host}")
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
            held = self._versions.shelf.newest()
            if held is None or held.manifest.version in self._files.versions:
                continue
            over = held.manifest.over
            base = base_of(over, self._bases.shelf.held.values()) if over else None
            try:
                # Beside the compute thread: what a trainer publishes meanwhile is checked there.
                await asyncio.to_thread(self._files.write, held, base)
            except (OSError, WeightsGone) as error:
                self.event(f"{held.manifest.version} was not written to disk: {error}")
                continue
            self._announce()

    # ------------------------------------------------------------ what is held

    def _announce(self) -> None:
        """Show what is held: the newest, and the others from new to old, those on disk too.

        What an earlier attempt left on disk is never the newest: a trainer that resumes opens a
        branch of its own.
        """
        ordered = [self._with_sources(held) for held in self._versions.shelf.newest_first()]
        newest = ordered[0] if ordered else None
        filed = self._files.only_filed(held.manifest.version for held in ordered)
        older = sorted((*ordered[1:], *filed), key=order, reverse=True)
        bases = dict(self._files.bases)
        for held in self._bases.shelf.held.values():
            bases[held.manifest.digest] = self._with_sources(held)
        self.announced.set(
            Announced(newest, tuple(older), self._copies.hosts, tuple(bases.values()))
        )
        if newest is not None:
            self.progress(f"serves {newest.manifest.version}")

    def _with_sources(self, held: Held) -> Held:
        """Say by which links a version can be had."""
        links, mine, manifest = self.config.links, [], held.manifest
        if "shm" in links:
            mine.append(Source("shm", self._host, "", held.location))
        if "stream" in links:
            mine.append(Source("stream", "", str(self.address)))
        if held is self._versions.shelf.newest():
            mine += [Source(link, "", str(self.address)) for link in self._updates]
        copies = (*self._copies.of(manifest.version), *self._files.sources(manifest))
        return msgspec.structs.replace(held, sources=(*mine, *copies))

    def _check_newer(self, version: Version) -> None:
        newest = self._versions.shelf.newest()
        if newest is None:
            return
        known = newest.manifest.version
        if (version.branch, version.number) <= (known.branch, known.number):
            raise RealnetError(
                f"{version} is not newer than {known}, which is announced: numbers of a branch "
                "only grow, and a trainer that resumes opens a new branch"
            )
