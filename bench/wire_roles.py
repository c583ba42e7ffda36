"""realnet's side of the wire benchmark: a client that measures, a server that answers.

Written as a user would write them, with public names only. The client measures inside its own loop
with the helpers that every peer uses (`measure.py`, which must be on PYTHONPATH), writes its rows
and ends the run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from measure import (
    MEASURES,
    TEXT,
    Arrays,
    Rows,
    Task,
    cpu_s,
    latencies_ns,
    measure,
    quantiles_us,
    touch,
    write_rows,
)

from realnet import (
    Actor,
    Ask,
    Bytes,
    Config,
    Delivery,
    Inlet,
    Message,
    Outlet,
    PeerDied,
    Request,
    Seconds,
    doc,
    handles,
)

BLOCK_BYTES = 10**6
BULK_WINDOW = 4
PENDING = 64


class Echoed(Message):
    number: int
    text: str


class Echo(Request[Echoed]):
    number: int
    text: str


class Taken(Message):
    num_bytes: int


class Trajectory(Request[Taken]):
    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    advantages: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int32]
    mask: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]


class Process(Message):
    pid: int


class Who(Request[Process]):
    safe = True


class Hold(Request[Process]):
    """Answered only when the server ends."""


class Block(Message):
    data: npt.NDArray[np.uint8]


class Server(Actor[Config]):
    """Answers at once, takes bulk, and holds what it is told to hold."""

    blocks = Inlet(Block, window=BULK_WINDOW)

    async def start(self) -> None:
        self.ended = asyncio.Event()

    async def drain(self) -> None:
        self.ended.set()

    @handles
    async def echo(self, request: Echo) -> Echoed:
        return Echoed(request.number, request.text)

    @handles
    async def take(self, request: Trajectory) -> Taken:
        arrays = (request.tokens, request.logprobs, request.advantages)
        return Taken(touch((*arrays, request.versions, request.mask, request.rewards)))

    @handles
    async def who(self, request: Who) -> Process:
        return Process(os.getpid())

    @handles
    async def hold(self, request: Hold) -> Process:
        await self.ended.wait()
        return Process(os.getpid())

    @blocks.handler
    async def on_block(self, item: Delivery[Block]) -> None:
        touch((item.body.data,))


class ClientConfig(Config):
    out: Annotated[str, doc("the file that the rows go to")]
    seconds: Annotated[Seconds, doc("how long each measure takes")] = Seconds(1)
    measures: Annotated[str, doc("which rows: names of measure.py, bulk, kill")] = ",".join(
        (*MEASURES, "bulk", "kill")
    )
    bulk: Annotated[Bytes, doc("how much flows while asks are measured")] = Bytes(2**30)
    kills: Annotated[int, doc("how often the server is killed", ge=1)] = 5


class Client(Actor[ClientConfig]):
    """Measures, writes the rows, ends the run."""

    server = Ask(Echo, Trajectory, Who, Hold)
    blocks = Outlet(Block)

    async def run(self) -> None:
        names = tuple(self.config.measures.split(","))
        task = Task(Path(self.config.out), self.config.seconds, names)
        pids = sorted({os.getpid(), await self.server_pid()})
        rows = await measure(task, self.echo, self.arrays, pids)
        if "bulk" in names:
            rows |= await self.under_bulk()
        if "kill" in names:
            rows |= await self.kill()
        write_rows(task.out, rows)
        self.finish("measured")

    async def server_pid(self) -> int:
        return (await self.server(Who())).pid

    async def echo(self) -> None:
        await self.server(Echo(1, TEXT))

    async def arrays(self, arrays: Arrays) -> None:
        await self.server(Trajectory(**arrays))

    async def under_bulk(self) -> Rows:
        """Ask one by one, idle and while so much flows to the same process on another wire."""
        idle_ns = await latencies_ns(self.echo, self.config.seconds)
        pids = (os.getpid(), await self.server_pid())
        start_s, before_cpu_s = time.perf_counter(), cpu_s(pids)
        flowing = self.spawn(self.flow(self.config.bulk), name="bulk")
        samples_ns = []
        while not flowing.done():
            samples_ns += await latencies_ns(self.echo, 0.01)
        took_s = time.perf_counter() - start_s
        idle_us, _ = quantiles_us(idle_ns)
        p50_us, p99_us = quantiles_us(samples_ns)
        return {
            "idle_p50_us": idle_us,
            "bulk_p50_us": p50_us,
            "bulk_p99_us": p99_us,
            "bulk_mb_per_s": self.config.bulk / 1e6 / took_s,
            "bulk_cpu_s_per_gb": (cpu_s(pids) - before_cpu_s) / (self.config.bulk / 1e9),
        }

    async def flow(self, num_bytes: int) -> None:
        block = Block(np.ones(BLOCK_BYTES, np.uint8))
        for _ in range(-(-num_bytes // BLOCK_BYTES)):
            await self.blocks.send(block)

    async def kill(self) -> Rows:
        """Kill the server under pending asks; how long until the last of them has failed."""
        took_ms = []
        for _ in range(self.config.kills):
            pid = await self.up_again()
            pending = [self.spawn(self.held(), name="held") for _ in range(PENDING)]
            await self.echo()  # it has them all: a link keeps its order
            start_s = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            failed_s = await asyncio.gather(*pending)
            took_ms.append((max(failed_s) - start_s) * 1e3)
        return {"kill_ms": statistics.median(took_ms), "kill_max_ms": max(took_ms)}

    async def up_again(self) -> int:
        while True:
            try:
                return await self.server_pid()
            except PeerDied:  # this was asked of the dead one
                continue

    async def held(self) -> float:
        """Return when the ask failed, as it must."""
        try:
            await self.server(Hold(), deadline_s=60)
        except PeerDied:
            return time.perf_counter()
        raise AssertionError("an ask that nobody can answer was answered")
