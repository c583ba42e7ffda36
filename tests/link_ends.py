"""The ends of links, for tests of sockets: what came out of each, and a proxy that cuts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.errors import WireError
from realnet.links import Links
from realnet.transport import Transport

RUN = "run (attempt 1)"


class End:
    """A transport with links, and what came out of them."""

    def __init__(self, slot: str, transport: Transport) -> None:
        self.slot = slot
        self.closed = False
        self.got: list[int] = []
        self.errors: list[str] = []
        self.transport = transport
        loop = asyncio.get_running_loop()
        self.links = Links(slot, RUN, Codec(), transport, loop.time, self)
        transport.listen(self.links.receive)

    def enter(self, slot: str, route: wire.Route) -> Any:
        return SimpleNamespace(take=self.take)

    def take(self, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        assert isinstance(op, wire.Cancel)
        self.got.append(op.id)

    def told(self, error: WireError) -> None:
        self.errors.append(str(error))

    def link_broken(self, slot: str, text: str) -> None:
        raise AssertionError(text)

    def say(self, peer: str, number: int) -> None:
        self.send(peer, wire.Cancel(number))

    def send(self, peer: str, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        way = self.links.way(peer, wire.Route(peer, "p", self.slot, ""), 0)
        assert way is not None
        way.send(op, frames)

    def close(self) -> None:
        self.closed = True
        self.transport.close(0)


@contextlib.asynccontextmanager
async def ends(*made: End) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for end in made:
            end.close()


async def until(condition: Callable[[], bool], budget_s: float = 20.0) -> None:
    async with asyncio.timeout(budget_s):
        while not condition():
            await asyncio.sleep(0.005)


def cut_sockets(folder: Path) -> int:
    """Shut down this process's connections through sockets of a folder; return how many."""
    num = 0
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            if not os.readlink(entry).startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # closed meanwhile
            continue
        with connection, contextlib.suppress(OSError):  # it listens
            names = (connection.getsockname(), connection.getpeername())
            if any(str(name).startswith(str(folder)) for name in names):
                connection.shutdown(socket.SHUT_RDWR)
                num += 1
    return num


def of_a_cut(text: str) -> bool:
    """Tell whether this is what an end may say when its connections are cut at any moment: in the
    middle of a handshake, too."""
    told = ("was lost and is back; nothing is lost", "was cut while", "or gone in the middle")
    return any(words in text for words in told)


class Proxy:
    """A tcp proxy that breaks connections when told to."""

    def __init__(self, target: str) -> None:
        self.target = int(target.rpartition(":")[2])
        self.writers: list[asyncio.StreamWriter] = []
        self.breaks = 0

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers += [writer, other_writer]
        await asyncio.gather(self._copy(reader, other_writer), self._copy(other_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def cut(self) -> None:
        """Reset all connections; what is on the way is lost."""
        self.breaks += bool(self.writers)
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def stop(self) -> None:
        self.server.close()
        self.cut()
        await asyncio.sleep(0.02)
        await self.server.wait_closed()
