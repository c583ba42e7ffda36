"""A generator's end: takes a version from the nearest source that has it whole.

What one source cannot give, or gives damaged, the next one is asked for; only when none is left the
version counts as gone. A stream that its sender's death cut short goes on where it was.

Knows sources and links; knows nothing of engines. Called by generators and relays. Waiting and
blocking work are the actor's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from realnet.errors import AskError
from realnet.roles.messages import Announced, Chunk, FetchVersion, Held, Source
from realnet.roles.weights import disk
from realnet.roles.weights.digests import WeightsDamaged, WeightsGone
from realnet.roles.weights.joining import AskServer, Member
from realnet.roles.weights.reader import WeightReader
from realnet.roles.weights.sources import ORDER, nearest, ready, this_host
from realnet.roles.weights.stream import Assembly

STALL_S = 30.0  # a stream that brings nothing for so long is given up
LEAST_BYTES_PER_S = 10e6
_TRIES = 3


class Surroundings(Protocol):
    """What receiving needs of its actor."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...


class Fetch(AskServer, Protocol):
    """The port that asks the parameter server."""

    def stream(
        self, request: FetchVersion, *, deadline_s: float | None = None, to: str | None = None
    ) -> AsyncIterator[Chunk]: ...


class Receiver:
    """Takes versions, one at a time.

    `links` are those that may be used; collectives need `member`, the actor's address.
    """

    def __init__(
        self,
        actor: Surroundings,
        fetch: Fetch | None,
        links: Sequence[str] = ORDER,
        host: str = "",
        member: str = "",
    ) -> None:
        self._actor = actor
        self._fetch = fetch
        self._member = Member(member, fetch) if fetch is not None and member else None
        self._links = [
            link
            for link in links
            if link in ("shm", "disk")
            or (link == "stream" and fetch is not None)
            or (link in ("gloo", "nccl") and self._member is not None)
        ]
        self._host = host or this_host()
        self._reader = WeightReader()
        self.link = ""  # of the version that came last

    def ready(self, announced: Announced, held: Held) -> bool:
        """Tell whether to take a version now, or to wait for its copy on this host."""
        return ready(announced, held, self._host)

    async def receive(self, held: Held, out: memoryview) -> None:
        """Fill `out` [num_bytes] with a version, whole and checked.

        Raises WeightsGone or WeightsDamaged, of the last source tried; `out` is rubbish then.
        """
        error: WeightsGone | WeightsDamaged | None = None
        for source in nearest(held, self._host, self._links):
            try:
                await self._receive(held, source, out)
            except (WeightsGone, WeightsDamaged) as its_error:
                error = its_error
            else:
                self.link = source.link
                return
        raise error or WeightsGone(
            f"{held.manifest.version} can be had by {_names(held)}, and {self._host} takes "
            f"{', '.join(self._links)}: set [roles.parameter_server] links"
        )

    def close(self) -> None:
        """Unmap, and leave collective groups."""
        self._reader.close()
        if self._member is not None:
            self._member.close()

    async def _receive(self, held: Held, source: Source, out: memoryview) -> None:
        if source.link == "shm":
            near = msgspec.structs.replace(held, location=source.location or held.location)
            await self._actor.compute(self._reader.copy, near, out, label="copy weights")
        elif source.link == "disk":
            await self._actor.compute(
                disk.read, Path(source.at), held.manifest, out, label="read weights"
            )
        elif source.link == "stream" or self._member is None:
            await self._stream(held, source, out)
        else:
            async with self._actor.waiting(f"{source.at} to send {held.manifest.version}"):
                await self._member.receive(held.manifest, source, out)

    async def _stream(self, held: Held, source: Source, out: memoryview) -> None:
        manifest = held.manifest
        assembly = Assembly(manifest, out)
        for attempt in range(_TRIES):
            try:
                async with self._actor.waiting(f"{source.at} to stream {manifest.version}"):
                    await self._take(assembly, held, source)
                assembly.finish()
                return
            except (AskError, TimeoutError) as error:
                if attempt + 1 == _TRIES:
                    raise WeightsGone(
                        f"{manifest.version} did not come from {source.at} "
                        f"({assembly.num_bytes} of {manifest.num_bytes} bytes): {error}"
                    ) from None

    async def _take(self, assembly: Assembly, held: Held, source: Source) -> None:
        manifest = held.manifest
        request = FetchVersion(manifest.version, manifest.digest, assembly.num_bytes)
        budget_s = STALL_S + manifest.num_bytes / LEAST_BYTES_PER_S
        fetch = cast(Fetch, self._fetch)
        stream: Any = fetch.stream(request, deadline_s=budget_s, to=source.at or None)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(STALL_S) as limit, aclosing(stream) as chunks:
            async for chunk in chunks:
                assembly.take(chunk)
                limit.reschedule(loop.time() + STALL_S)


def _names(held: Held) -> str:
    names = sorted({f"{s.link} on {s.host}" if s.host else s.link for s in held.sources})
    return ", ".join(names) or "shm"
