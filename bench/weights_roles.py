"""How long a version takes from a trainer's arrays to all its readers, by every link, in one run.

The writer holds the arrays, has the version published or sent, and asks readers to take it; a way's
time ends when the last reader has said that it has all of it. Each round measures every way once,
every other round backwards:

    memcpy        the arrays into memory of this process, touched before: what all are compared with
    shm_N         into the arena, without digests; N readers map it
    shm_digest_N  published: digests made, checked by the parameter server, announced; N map it
    stream_N      from the parameter server's memory into N readers', digests checked
    gloo_N        broadcast from the same memory into N readers', digests checked; the group stands

Public names, and the weights library that roles use. Run by `weights.toml`; `measure.py` must be on
PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from measure import write_rows

from realnet import Actor, Ask, Config, Message, Request, StateIn, doc, handles
from realnet.roles.messages import (
    Announced,
    CommitPart,
    CommitVersion,
    FetchVersion,
    Held,
    Manifest,
    OpenSlot,
    Version,
    WriteRuns,
)
from realnet.roles.tables import Policy
from realnet.roles.trainer.publisher import Publisher, SlotWriter, Whole
from realnet.roles.weights import ArenaSlots, WeightReader, layout
from realnet.roles.weights.collective import Group, Store, reach_store
from realnet.roles.weights.receiver import Receiver

LIMIT_S = 300.0


class Took(Message):
    """A reader has it. `first` and `last` are numbers at its two ends."""

    first: float
    last: float


class Take(Request[Took]):
    """Take this version by this link: "map", or one that a receiver knows."""

    held: Held
    link: str
    rank: int = 0
    size: int = 0
    store: tuple[str, int] = ("", 0)


class Reader(Actor[Config]):
    """Takes versions as it is told."""

    shared = (Policy,)
    weights = Ask(FetchVersion, joined_by="policy")

    async def start(self) -> None:
        self.room = bytearray()
        self.reader = WeightReader()
        self.receiver = Receiver(self, self.weights, ("stream",))
        self.groups: dict[int, Group] = {}

    async def stop(self) -> None:
        self.reader.close()
        self.receiver.close()

    @handles
    async def take(self, request: Take) -> Took:
        held, num_bytes = request.held, request.held.manifest.num_bytes
        if request.link == "map":
            with self.reader.mapped(held) as view:
                return ends(view)
        if len(self.room) != num_bytes:
            await self.compute(self.make_room, num_bytes)
        with memoryview(self.room) as room:
            if request.link == "gloo":
                await self.compute(self.broadcast, request, room)
            else:
                await self.receiver.receive(held, room)
            return ends(room)

    def make_room(self, num_bytes: int) -> None:
        """Touch it all: nobody measures the kernel's first pages."""
        self.room = bytearray(num_bytes)
        np.frombuffer(self.room, np.uint8).fill(1)

    def broadcast(self, request: Take, room: memoryview) -> None:
        size = request.size
        if size not in self.groups:
            store = reach_store(*request.store, LIMIT_S)
            self.groups[size] = Group("gloo", store, size, request.rank, size, timeout_s=LIMIT_S)
        self.groups[size].receive(request.held.manifest, room)


def ends(view: memoryview) -> Took:
    values = np.frombuffer(view, np.float32)
    return Took(float(values[0]), float(values[-1]))


class WriterConfig(Config):
    out: Annotated[str, doc("file for the rows")] = "rows.json"
    mib: Annotated[int, doc("size of a version", ge=16)] = 1024
    rounds: Annotated[int, doc("of all ways", ge=1)] = 5


class Writer(Actor[WriterConfig]):
    """Publishes, and measures."""

    shared = (Policy,)
    server = Ask(OpenSlot, CommitVersion, CommitPart, WriteRuns, joined_by="policy")
    versions = StateIn(Announced, joined_by="policy")
    readers = Ask(Take)

    async def run(self) -> None:
        layers = max(self.config.mib // 32, 1)  # of 32 MiB, as in a model of a few billion
        self.arrays = [np.ones((4096, 2048), np.float32) for _ in range(layers)]
        self.room = [np.zeros_like(a) for a in self.arrays]
        self.publisher = Publisher(self, self.server, self.clock.sleep)
        self.slots, self.number = SlotWriter(), 0
        self.store = await self.compute(Store, "127.0.0.1")
        self.groups: dict[int, Group] = {}
        ways: list[tuple[str, Callable[[], Awaitable[float]]]] = [("memcpy", self.memcpy)]
        for num in (1, 4):
            ways += [
                (f"shm_{num}", lambda n=num: self.bare(n)),  # type: ignore[misc]
                (f"shm_digest_{num}", lambda n=num: self.published(n)),  # type: ignore[misc]
                (f"stream_{num}", lambda n=num: self.streamed(n)),  # type: ignore[misc]
                (f"gloo_{num}", lambda n=num: self.broadcast(n)),  # type: ignore[misc]
            ]
        rows: dict[str, float] = {"bytes": float(sum(a.nbytes for a in self.arrays))}
        for _, way in ways:  # once for all that is made the first time
            await way()
        for round_ in range(self.config.rounds):
            for name, way in ways if round_ % 2 == 0 else reversed(ways):
                rows[f"{name}.{round_}"] = await way()
                self.progress(f"round {round_}: {name} {rows[f'{name}.{round_}']:.3f} s")
        write_rows(Path(self.config.out), rows)
        self.finish("measured")

    def weights(self) -> list[tuple[str, np.ndarray[Any, Any], str]]:
        return [(f"layers.{i}.w", a, "float32") for i, a in enumerate(self.arrays)]

    def next(self) -> Version:
        """Return the next version; its number stands in the arrays."""
        self.number += 1
        self.arrays[0][0, 0] = self.arrays[-1][-1, -1] = self.number
        return Version("policy", 0, self.number)

    async def memcpy(self) -> float:
        return float(await self.compute(copied, self.arrays, self.room))

    async def bare(self, num: int) -> float:
        """The link without digests: what a copy into shared memory and mappings take."""
        version = self.next()
        plan = layout(version, ((n, d, a.shape) for n, a, d in self.weights()))
        start_s = time.perf_counter()
        opened = await self.server(OpenSlot(version, plan.num_bytes), deadline_s=LIMIT_S)
        where = opened.location
        arena = await self.compute(self.slots.arena, where)
        location = await self.compute(put, arena, where.slot, plan, self.arrays)
        await self.ask_all(num, Held(plan, location), "map")
        took_s = time.perf_counter() - start_s
        arena.begin(where.slot)  # the parameter server does not know of it
        return took_s

    async def published(self, num: int) -> float:
        start_s = time.perf_counter()
        await self.ask_all(num, await self.publish(), "map")
        return time.perf_counter() - start_s

    async def streamed(self, num: int) -> float:
        """From memory to memory: publishing is not part of it."""
        held = await self.publish()
        start_s = time.perf_counter()
        await self.ask_all(num, held, "stream")
        return time.perf_counter() - start_s

    async def broadcast(self, num: int) -> float:
        """As `streamed`, by a group that stands."""
        held, size = await self.publish(), num + 1
        start_s = time.perf_counter()
        asked = asyncio.ensure_future(self.ask_all(num, held, "gloo"))
        await self.compute(self.send, held, size)
        await asked
        return time.perf_counter() - start_s

    def send(self, held: Held, size: int) -> None:
        if size not in self.groups:
            self.groups[size] = Group("gloo", self.store.store, size, 0, size, timeout_s=LIMIT_S)
        with WeightReader().mapped(held) as view:
            self.groups[size].send(held.manifest, view)

    async def publish(self) -> Held:
        version = self.next()
        await self.publisher.publish(version, Whole(self.weights))
        while True:
            announced = self.versions.value
            newest = announced.newest if announced is not None else None
            if newest is not None and newest.manifest.version == version:
                return newest
            await self.versions.changed()

    async def ask_all(self, num: int, held: Held, link: str) -> None:
        if link == "stream":
            sources = tuple(s for s in held.sources if s.link == link)
            held = Held(held.manifest, held.location, sources)
        number, place = held.manifest.version.number, (self.store.host, self.store.port)
        took = await asyncio.gather(
            *(
                self.readers(
                    Take(held, link, i + 1, num + 1, place), to=f"reader/{i}", deadline_s=LIMIT_S
                )
                for i in range(num)
            )
        )
        assert all((t.first, t.last) == (number, number) for t in took), took


def copied(arrays: list[Any], room: list[Any]) -> float:
    start_s = time.perf_counter()
    for array, target in zip(arrays, room, strict=True):
        np.copyto(target, array)
    return time.perf_counter() - start_s


def put(arena: ArenaSlots, slot: int, plan: Manifest, arrays: list[Any]) -> Any:
    with arena.view(slot) as view:
        for tensor, array in zip(plan.tensors, arrays, strict=True):
            end = tensor.offset_bytes + tensor.num_bytes
            target = np.frombuffer(view, np.float32)[tensor.offset_bytes // 4 : end // 4]
            np.copyto(target.reshape(array.shape), array)
    arena.commit(slot, plan, verified=True)
    return arena.location(slot)
