"""The relay: one copy of each new version crosses the network to its host, however many read it.

    Announced -> FetchVersion (or a file) -> its own arena -> CopyHeld -> announced for its host

While a relay lives, generators on its host wait for its copy instead of fetching one each. One that
dies is forgotten by the parameter server, and they fetch for themselves until there is another. The
copy is in memory that the host's agent owns: a relay that is started again finds it.

On the parameter server's own host there is nothing to do, and it does nothing. Knows nothing of
models or of who reads.
"""

from __future__ import annotations

from typing import Annotated

from realnet import Actor, Ask, AskError, Config, StateIn, doc
from realnet.roles.messages import Announced, CopyHeld, FetchVersion, Held, Source, Version
from realnet.roles.tables import Policy
from realnet.roles.weights import ArenaSlots, WeightsDamaged, WeightsGone
from realnet.roles.weights.receiver import Receiver
from realnet.roles.weights.slots import choose_slot
from realnet.roles.weights.sources import sources_of, this_host

_AGAIN_S = 0.5  # until a version that could not be fetched is tried again


class RelayConfig(Config):
    """`[roles.relay]`. Place one on each host that has generators."""

    slots: Annotated[int, doc("versions that memory has room for", ge=3)] = 3


class Relay(Actor[RelayConfig]):
    """Keeps the newest versions of one policy on one host."""

    shared = (Policy,)
    versions = StateIn(Announced, joined_by="policy")
    server = Ask(FetchVersion, CopyHeld, joined_by="policy")

    async def start(self) -> None:
        self._host = this_host()
        self._receiver = Receiver(self, self.server, ("stream", "disk"), self._host)
        self._arena: ArenaSlots | None = None
        self._held: dict[int, Held] = {}  # slot -> the whole version in it

    async def run(self) -> None:
        """Fetch every newest version, and say what is here."""
        announced = await self.versions.get()
        while True:
            newest = announced.newest
            if newest is not None and not self._is_near(newest):
                if self._host not in announced.relays:  # it does not know us, or not any more
                    await self._say()
                try:
                    await self._fetch(newest, announced)
                except (WeightsGone, WeightsDamaged) as error:
                    self.event(f"{self.address} has not got {newest.manifest.version}: {error}")
                    await self.clock.sleep(_AGAIN_S)
                    announced = self.versions.value or announced
                    continue
            announced = await self.versions.changed()

    async def stop(self) -> None:
        """Let go of the memory; it stays."""
        self._receiver.close()
        if self._arena is not None:
            self._arena.close()

    def _is_near(self, held: Held) -> bool:
        """Tell whether a version is in this host's memory without us."""
        mine = {h.location for h in self._held.values()}
        return any(
            s.link == "shm" and s.host == self._host and s.location not in mine
            for s in sources_of(held, self._host)
        )

    async def _fetch(self, wanted: Held, announced: Announced) -> None:
        """Bring a version into memory, unless it is there, and say so."""
        manifest = wanted.manifest
        arena = await self._room(wanted, announced)
        if not any(h.manifest == manifest for h in self._held.values()):
            slot = choose_slot(
                *(range(arena.slots), self._held, arena.generation, arena.leased),
                lambda s: _order(self._held[s].manifest.version),
            )
            if self._held.pop(slot, None) is not None:
                await self._say()  # first: who would read it must look elsewhere
            arena.begin(slot)
            start_s = self.clock.now()
            with arena.view(slot) as view, view[: manifest.num_bytes] as room:
                await self._receiver.receive(wanted, room)
            arena.commit(slot, manifest, verified=True)
            self._held[slot] = Held(manifest, arena.location(slot))
            self.progress(f"keeps {manifest.version}")
            self.metrics(
                version=manifest.version.number,
                bytes=manifest.num_bytes,
                fetch_s=self.clock.now() - start_s,
            )
            await self._say()
        elif not any(s.host == self._host and s.link == "shm" for s in wanted.sources):
            await self._say()

    async def _room(self, wanted: Held, announced: Announced) -> ArenaSlots:
        """Return the arena, with what is still held of what it was left with."""
        if self._arena is None:
            size = ArenaSlots.slot_bytes(wanted.manifest.num_bytes)
            name = f"weights-{wanted.manifest.version.policy}-{self.address.role}"
            name = f"{name}-{self.address.index}"
            path = await self.arena(name, slot_bytes=size, slots=self.config.slots)
            arena = self._arena = ArenaSlots(path, self.config.slots, size)
            known = [h.manifest for h in (announced.newest, *announced.older) if h is not None]
            found = await self.compute(arena.scan, label="scan versions")
            self._held = {h.location.slot: h for h in found if h.manifest in known}
        return self._arena

    async def _say(self) -> None:
        """Tell the parameter server what is here; one that died asks by not knowing us."""
        copies = tuple(
            (held.manifest.version, Source("shm", self._host, "", held.location))
            for held in self._held.values()
        )
        try:
            await self.server(CopyHeld(str(self.address), self._host, copies))
        except AskError as error:
            self.event(f"{self.address} could not say what it keeps: {error}")


def _order(version: Version) -> tuple[int, int]:
    return version.branch, version.number
