"""How vLLM's workers are given a version: prepared while they write, loaded while they are paused.

    told     a pipe on which each worker answers what it found: "+" for a version that is whole and
             right, a line for what is wrong, "=" and the name of its GPU when it is asked for that
    stage    workers map the room, or open a loan, and check it
    load     all of it; a half one is loaded again, from the start

Knows the transfer back end (`transfer.py`) and how to call workers; knows nothing of requests.
Called by `engine`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from realnet.errors import RealnetError
from realnet.roles.generator.engine import EngineDied
from realnet.roles.messages import Manifest, Version
from realnet.roles.weights.room import Room


class Call(Protocol):
    """Calls a method of every worker."""

    def __call__(self, method: str, keywords: dict[str, Any] | None = None) -> Awaitable[None]: ...


class Staging:
    """Versions on their way into one vLLM. `dead` is set when it died; `die` says so."""

    def __init__(
        self, call: Call, workers: int, dead: asyncio.Event, die: Callable[[str], EngineDied]
    ) -> None:
        self._call = call
        self._workers = workers
        self._dead = dead
        self._die = die

    async def device(self) -> str:
        """Return the GPU that a single worker can borrow on; "" for a CPU, or for several."""
        if self._workers > 1:
            return ""
        told = await self._ask({"path": "", "manifest": ""})
        return told.removeprefix("=")

    async def stage(self, manifest: Manifest, room: Room) -> None:
        """Have every worker check a version. Raises RealnetError when one finds it wrong."""
        table = {"path": room.path, "manifest": msgspec.json.encode(manifest).decode()}
        if room.loan is not None:
            table |= {"path": "", "loan": msgspec.json.encode(room.loan.handle).decode()}
        if told := await self._ask(table):
            raise RealnetError(told)

    async def load(self, version: Version) -> None:
        """Load the staged version; vLLM is paused. Raises EngineDied where it cannot."""
        for attempt in (1, 2):
            try:
                await self._call("start_weight_update")
                await self._call("update_weights", {"update_info": {"version": str(version)}})
                await self._call("finish_weight_update")
                return
            except EngineDied:
                raise
            except Exception as error:  # of vLLM's model loading, told by its process
                if attempt == 2:
                    raise self._die(f"vLLM could not load {version}: {error}") from error

    async def _ask(self, table: dict[str, Any]) -> str:
        """Prepare all workers; return what one of them said, or "" when all is well."""
        read, write = os.pipe()
        try:
            info = {**table, "tell": f"/proc/{os.getpid()}/fd/{write}"}
            await self._call("init_weight_transfer_engine", {"init_info": info})
            return await self._told(read)
        finally:
            os.close(read)
            os.close(write)

    async def _told(self, pipe: int) -> str:
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        heard = b""
        os.set_blocking(pipe, False)
        loop.add_reader(pipe, news.set)
        dead = asyncio.ensure_future(self._dead.wait())
        try:
            while heard != b"+" * self._workers:
                if heard.endswith(b"\n"):
                    return heard.lstrip(b"+").decode(errors="replace").strip()
                waits = asyncio.ensure_future(news.wait())
                await asyncio.wait({waits, dead}, return_when=asyncio.FIRST_COMPLETED)
                waits.cancel()
                if dead.done():
                    raise self._die("vLLM's engine is dead")
                news.clear()
                heard += os.read(pipe, 4096)
            return ""
        finally:
            loop.remove_reader(pipe)
            dead.cancel()
