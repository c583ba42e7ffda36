"""A stepped engine: drives a synchronous core in the compute thread, and hands its deltas out.

Knows asyncio queues and the core's protocol; knows nothing of actors, wires or where weights come
from. Called by the generator, all in its loop; only the core is in the compute thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from realnet.errors import ensure
from realnet.roles.generator.engine import Core, Surroundings
from realnet.roles.messages import Delta, Floats, Generate, Ints, Manifest, Version
from realnet.roles.weights.room import Room


class SteppedEngine:
    """See `engine.Engine`. `block` is how many tokens a row gets in one step."""

    opens_loans = False

    def __init__(
        self,
        make: Callable[[], Core],
        around: Surroundings,
        block: int,
        *,
        takes_weights: bool = True,
    ) -> None:
        self.takes_weights = takes_weights
        self.tokens = 0
        self._make = make
        self._around = around
        self._block = block
        self._core: Core | None = None
        self._work = asyncio.Event()
        self._streams: dict[int, asyncio.Queue[Delta]] = {}
        self._next = 0

    @property
    def core(self) -> Core:
        ensure(self._core is not None, "an engine was used before it was started")
        assert self._core is not None
        return self._core

    @property
    def version(self) -> Version | None:
        return self.core.version

    @property
    def device(self) -> str:
        return self.core.device

    @property
    def num_running(self) -> int:
        return self.core.num_running

    @property
    def num_waiting(self) -> int:
        return self.core.num_waiting

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        self._core = await self._around.compute(self._make, label="build engine")

    async def run(self) -> None:
        core = self.core
        while True:
            if core.version is not None and (core.num_running or core.num_waiting):
                self._deliver(await self._around.compute(core.step, self._block, label="generate"))
                continue
            self._work.clear()
            what = "requests" if core.version else "the first version"
            async with self._around.waiting(what):
                await self._work.wait()

    async def close(self) -> None:
        self._core = None

    # ------------------------------------------------------------ requests

    async def stream(self, request: Generate) -> AsyncGenerator[Delta, None]:
        self._next += 1
        number = self._next
        arrived: asyncio.Queue[Delta] = asyncio.Queue()
        self.core.submit(number, request)
        self._streams[number] = arrived
        self._work.set()
        try:
            while True:
                delta = await arrived.get()
                yield delta
                if delta.finish:
                    return
        finally:
            if self._streams.pop(number, None) is not None and self._core is not None:
                self._core.abort(number)
                self._work.set()

    async def abort(self) -> None:
        for number in self._streams:
            self.core.abort(number)
        self._work.set()

    def _deliver(self, sent: Iterable[tuple[int, Delta]]) -> None:
        """Hand what a step returned to the streams; what nobody waits for any more is dropped."""
        for number, delta in sent:
            self.tokens += len(delta.token_ids)
            stream = self._streams.get(number)
            if stream is not None:
                stream.put_nowait(delta)
                if delta.finish:
                    del self._streams[number]

    # ------------------------------------------------------------ weights

    async def stage(self, manifest: Manifest, room: Room) -> None:
        weights = room.weights(manifest) if self.takes_weights else {}
        await self._around.compute(
            self.core.stage, weights, manifest.version, label="stage weights"
        )

    async def swap(self) -> float:
        stall_s: float = await self._around.compute(self._swap, label="swap weights")
        self._work.set()
        return stall_s

    def _swap(self) -> float:
        start_s = time.monotonic()
        self.core.swap()
        return time.monotonic() - start_s

    async def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        scored: list[Floats] = await self._around.compute(self.core.score, sequences, label="score")
        return scored
