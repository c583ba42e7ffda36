"""A host for tests whose shared memory outlives the parameter servers that are started on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realnet.roles.messages import Announced, Held
from realnet.roles.parameter_server import ParameterServer, ParameterServerConfig
from realnet.roles.tables import Policy


class Shown:
    """The showing end of a state wire."""

    def __init__(self) -> None:
        self.value: Announced | None = None

    def set(self, value: Announced) -> None:
        self.value = value


class House:
    """A host whose shared memory outlives the servers started on it."""

    def __init__(self, bench: Any, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        bench.world.arena = self.arena
        self.shown = Shown()

    async def arena(self, name: str, slot_bytes: int, slots: int) -> str:
        path = self.folder / name
        with path.open("ab") as file:
            assert file.tell() in (0, slot_bytes * slots)
            file.truncate(slot_bytes * slots)
        return str(path)

    async def server(self, **table: Any) -> ParameterServer:
        """Start a server, as after a death."""
        self.shown = Shown()
        config, shared = ParameterServerConfig(**table), {Policy: Policy(model="new:llama")}
        made = await self.bench.start(ParameterServer, config, shared, {"announced": self.shown})
        assert isinstance(made, ParameterServer)
        return made

    def sources(self, at: int = 0) -> list[str]:
        """By which links a version can be had, 0 being the newest."""
        assert self.shown.value is not None
        held = [self.newest(), *self.shown.value.older][at]
        return [f"{s.link} {s.host}".strip() for s in held.sources]

    def numbers(self) -> list[int]:
        """What is announced, newest first."""
        value = self.shown.value
        if value is None or value.newest is None:
            return []
        return [held.manifest.version.number for held in (value.newest, *value.older)]

    def newest(self) -> Held:
        assert self.shown.value is not None
        assert self.shown.value.newest is not None
        return self.shown.value.newest
