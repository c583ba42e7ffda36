"""The relay: one copy of each new version crosses the network to its host, however many read it.

    Announced -> FetchVersion (or a file) -> its own arena -> CopyHeld -> announced for its host

While a relay lives, generators on its host wait for its copy instead of fetching one each. One that
dies is forgotten by the parameter server, and they fetch for themselves until there is another. The
copy is in memory that the host's agent owns: a relay that is started again finds it. What versions
of adapters are laid over is kept beside them, in memory of its own, and had before the first.

On the parameter server's own host there is nothing to do, and it does nothing. Knows nothing of
models or of who reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from realnet import Actor, Ask, AskError, Config, StateIn, doc
from realnet.actor import Need, Place
from realnet.config import Shared
from realnet.roles.messages import Announced, CopyHeld, FetchVersion, Held, Source
from realnet.roles.models import memory
from realnet.roles.tables import Policy
from realnet.roles.weights import ArenaSlots, WeightsDamaged, WeightsGone
from realnet.roles.weights.adapters import base_of, is_base, memory_name
from realnet.roles.weights.receiver import Receiver
from realnet.roles.weights.shelf import Shelf
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

    @classmethod
    def needs(cls, config: RelayConfig, shared: dict[type[Shared], Any], place: Place) -> Need:
        """Count the versions that memory has room for."""
        return memory.shelf_need(shared[Policy], place, config.slots)

    async def start(self) -> None:
        self._host = this_host()
        self._receiver = Receiver(self, self.server, ("stream", "disk"), self._host)
        self._versions = Shelf(self, self.config.slots)
        self._bases = Shelf(self, 1)

    async def run(self) -> None:
        """Fetch every newest version, after its base, and say what is here."""
        announced = await self.versions.get()
        while True:
            newest = announced.newest
            if newest is not None and not self._is_near(newest):
                if self._host not in announced.relays:  # it does not know us, or not any more
                    await self._say()
                try:
                    await self._fetch_base(newest, announced)
                    await self._fetch(newest, self._versions, _all(announced))
                except (WeightsGone, WeightsDamaged) as error:
                    self.event(f"{self.address} has not got {newest.manifest.version}: {error}")
                    await self.clock.sleep(_AGAIN_S)
                    announced = self.versions.value or announced
                    continue
            announced = await self.versions.changed()

    async def stop(self) -> None:
        """Let go of the memory; it stays."""
        self._receiver.close()
        self._versions.close()
        self._bases.close()

    def _is_near(self, held: Held) -> bool:
        """Tell whether a version is in this host's memory without us."""
        mine = {h.location for shelf in (self._versions, self._bases) for h in shelf.held.values()}
        return any(
            s.link == "shm" and s.host == self._host and s.location not in mine
            for s in sources_of(held, self._host)
        )

    async def _fetch_base(self, wanted: Held, announced: Announced) -> None:
        """Bring what a version is laid over into memory, once."""
        over = wanted.manifest.over
        if over is None:
            return
        base = base_of(over, announced.bases)
        if base is None:
            raise WeightsGone(f"{over.base} is not held any more")
        await self._fetch(base, self._bases, announced.bases)

    async def _fetch(self, wanted: Held, shelf: Shelf, known: Iterable[Held]) -> None:
        """Bring a version into memory, unless it is there, and say so."""
        manifest, version = wanted.manifest, wanted.manifest.version
        if not shelf.is_open:
            name = f"{memory_name(version)}-{self.address.role}-{self.address.index}"
            size = ArenaSlots.slot_bytes(manifest.num_bytes)
            await shelf.open(name, size, [held.manifest for held in known])
        if not any(h.manifest == manifest for h in shelf.held.values()):
            slot, arena = shelf.choose(), shelf.arena
            if shelf.drop(slot) is not None:
                await self._say()  # first: who would read it must look elsewhere
            arena.begin(slot)
            start_s = self.clock.now()
            with arena.view(slot) as view, view[: manifest.num_bytes] as room:
                await self._receiver.receive(wanted, room)
            arena.commit(slot, manifest, verified=True)
            shelf.put(slot, manifest)
            self.progress(f"keeps {version}")
            self.metrics(
                version=version.number,
                bytes=manifest.num_bytes,
                fetch_s=self.clock.now() - start_s,
                base=float(is_base(version)),
            )
            await self._say()
        elif not any(s.host == self._host and s.link == "shm" for s in wanted.sources):
            await self._say()

    async def _say(self) -> None:
        """Tell the parameter server what is here; one that died asks by not knowing us."""
        copies = tuple(
            (held.manifest.version, Source("shm", self._host, "", held.location))
            for shelf in (self._versions, self._bases)
            for held in shelf.held.values()
        )
        try:
            await self.server(CopyHeld(str(self.address), self._host, copies))
        except AskError as error:
            self.event(f"{self.address} could not say what it keeps: {error}")


def _all(announced: Announced) -> list[Held]:
    return [h for h in (announced.newest, *announced.older) if h is not None]
