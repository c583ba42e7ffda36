"""A writer and readers of weights without models, for test_weights.py in real processes."""

from __future__ import annotations

import functools
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realnet import Actor, Ask, Config, StateIn
from realnet.roles.messages import (
    Announced,
    CommitPart,
    CommitVersion,
    FetchVersion,
    Held,
    JoinUpdate,
    OpenSlot,
    UpdateEnded,
    Version,
    WriteRuns,
)
from realnet.roles.parameter_server import ParameterServer
from realnet.roles.tables import Policy
from realnet.roles.trainer import publisher as publisher_module
from realnet.roles.trainer.publisher import Publisher, Whole
from realnet.roles.weights import WeightsDamaged, WeightsGone, layout, tensors
from realnet.roles.weights.receiver import Receiver

SHAPE = (512, 1024)
LAYERS = 8  # a bucket each, where buckets are small


class WriterConfig(Config):
    layers: int = LAYERS


class Writer(Actor[WriterConfig]):
    """Publishes as many versions as the file `publish` in the run's folder says."""

    shared = (Policy,)
    server = Ask(OpenSlot, CommitVersion, CommitPart, WriteRuns, joined_by="policy")

    def weights(self) -> Sequence[tuple[str, np.ndarray[Any, Any], str]]:
        layers = range(self.config.layers)
        return [(f"layers.{i}.w", np.full(SHAPE, self.number + i, "f4"), "fp32") for i in layers]

    async def run(self) -> None:
        # A bucket for each layer, so that a broadcast has a middle.
        small = functools.partial(layout, bucket_bytes=4 * math.prod(SHAPE))
        publisher_module.layout = small  # type: ignore[assignment]
        publisher = Publisher(self, self.server, self.clock.sleep)
        self.number, wanted = 0, self.run_info.folder / "publish"
        while True:
            if wanted.exists() and int(wanted.read_text() or 0) > self.number:
                await publisher.publish(Version("policy", 0, self.number), Whole(self.weights))
                self.event(f"published {self.number}")
                self.number += 1
            await self.clock.sleep(0.05)


def in_mid_broadcast(flag: Path) -> None:
    """Once, if the flag is there: have this process get a signal amid the buckets of a broadcast.

    The file says which one; whoever gets it has taken the file away.
    """
    from realnet.roles.weights.collective import Group

    land, landed = Group._land, iter(range(10**6))

    def struck(self: Group, *args: Any) -> None:
        land(self, *args)
        if next(landed) % LAYERS == LAYERS // 2 and flag.exists():
            kind = flag.read_text()
            flag.unlink()
            os.kill(os.getpid(), signal.Signals[kind])

    Group._land = struck  # type: ignore[method-assign]


class Server(ParameterServer):
    """A parameter server that can be struck while it sends."""

    async def start(self) -> None:
        in_mid_broadcast(self.run_info.folder / "strike.sender")
        await super().start()


class Reader(Actor[Config]):
    """Takes every newest version, looks at every number in it, and says by which link it came."""

    shared = (Policy,)
    versions = StateIn(Announced, joined_by="policy")
    weights = Ask(FetchVersion, JoinUpdate, UpdateEnded, joined_by="policy")

    async def start(self) -> None:
        self.receiver = Receiver(self, self.weights, member=str(self.address))
        in_mid_broadcast(self.run_info.folder / f"strike.{self.address.role}-{self.address.index}")

    async def stop(self) -> None:
        await self.compute(self.receiver.close)

    async def run(self) -> None:
        have: Version | None = None
        announced = await self.versions.get()
        while True:
            held = announced.newest
            new = held is not None and held.manifest.version != have
            if held is not None and new and self.receiver.ready(announced, held):
                try:
                    await self.take(held)
                    have = held.manifest.version
                except (WeightsGone, WeightsDamaged) as error:
                    self.event(f"{self.address} waits: {error}")
                    await self.clock.sleep(0.2)
                    announced = self.versions.value or announced
                    continue
            announced = await self.versions.changed()

    async def take(self, held: Held) -> None:
        room = bytearray(held.manifest.num_bytes)
        await self.receiver.receive(held, memoryview(room))
        number = held.manifest.version.number
        for i, array in enumerate(tensors(held.manifest, room).values()):
            assert (array == number + i).all()
        self.event(f"{self.address} has {number} by {self.receiver.link}")


def publish(folder: Path, num: int) -> None:
    """Let the writer of a run publish this many versions."""
    part = folder / "publish.part"
    part.write_text(str(num))
    part.replace(folder / "publish")
