"""A learner that publishes to a parameter server, and those who read: for tests without network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from learner_scenarios import Stage, weights
from server_house import House

from realnet.address import Address
from realnet.errors import RealnetError, Refused
from realnet.roles.messages import (
    Chunk,
    CommitVersion,
    CopyHeld,
    FetchVersion,
    Manifest,
    OpenSlot,
    Version,
    WriteRuns,
)
from realnet.roles.parameter_server import ParameterServer
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.publication import Publication
from realnet.roles.weights import tensors
from realnet.roles.weights.intake import Intake
from realnet.roles.weights.receiver import Receiver
from realnet.roles.weights.room import Room
from realnet.roles.weights.sources import this_host


class Around:
    """What publishing and receiving need of their actors."""

    address = Address("trainer", 0)

    def __init__(self, folder: Path = Path()) -> None:
        self.events: list[str] = []
        self._folder = folder

    async def arena(self, name: str, *, slot_bytes: int, slots: int) -> str:
        path = self._folder / name
        with path.open("ab") as file:
            file.truncate(slot_bytes * slots)
        return str(path)

    async def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Any:
        return fn(*args)

    @asynccontextmanager
    async def waiting(self, on: str) -> AsyncIterator[None]:
        self.events.append(on)
        yield

    def event(self, text: str, **fields: Any) -> None:
        self.events.append(text)


class Ask:
    """The port to a parameter server, as a trainer and as a reader have it."""

    def __init__(self, server: ParameterServer) -> None:
        self.server = server
        self.asked: list[Any] = []
        self.sent: list[Version] = []

    async def __call__(self, request: Any, **keywords: Any) -> Any:
        self.asked.append(request)
        server = self.server
        answer: Any = {
            OpenSlot: server.open_slot,
            CommitVersion: server.commit_version,
            CopyHeld: server.copy_held,
            WriteRuns: server.write_runs,
        }[type(request)]
        try:
            return await answer(request)
        except RealnetError as error:
            raise Refused(str(error)) from None

    async def stream(self, request: FetchVersion, **keywords: Any) -> AsyncIterator[Chunk]:
        self.sent.append(request.version)
        async for chunk in self.server.fetch_version(request):
            yield chunk


async def _sleep(seconds: float) -> None: ...


class Trainer:
    """A learner and its publication. `of`: the learner of the life before."""

    def __init__(self, server: ParameterServer, dtype: str = "fp32", **config: Any) -> None:
        policy = {"dtype": dtype, "model": "new:qwen2"}
        self.learner: Learner = Stage(0, 1, configs=[config], policy=policy).plain()
        self.around = Around(server.run_info.folder)
        self.ask = Ask(server)
        self.branch = 0
        self.published = 0
        self.begin()

    def begin(self) -> None:
        """A life of the trainer."""
        config = self.learner.config
        about: Any = (self.around, self.ask, _sleep, self.learner, config)
        self.publication = Publication(*about, self.learner.policy.dtype, canary=10)
        self.first = True

    async def publish(self) -> Version:
        version = Version("policy", self.branch, self.published)
        await self.publication.publish(version, first=self.first)
        self.first, self.published = False, self.published + 1
        return version

    def committed(self) -> list[int]:
        """The bytes of everything that was written."""
        return [a.manifest.num_bytes for a in self.ask.asked if isinstance(a, CommitVersion)]


def reader(trainer: Trainer, *links: str, host: str = "") -> Intake:
    port: Any = trainer.ask
    around: Any = Around()
    where = host or this_host()
    return Intake(around, Receiver(around, port, links, where), where)


async def taken(house: House, intake: Intake, version: Version) -> tuple[Manifest, dict[str, Any]]:
    announced = house.shown.value
    assert announced is not None
    known = [announced.newest, *announced.older]
    (held,) = [h for h in known if h is not None and h.manifest.version == version]
    room = Room()
    manifest = await intake.take(held, announced, room)
    return manifest, {n: a.copy() for n, a in tensors(manifest, room.view()).items()}


def check(found: dict[str, Any], learner: Learner) -> None:
    wanted = weights(learner)
    assert list(found) == list(wanted)
    for name, weight in wanted.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)
