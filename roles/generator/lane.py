"""A lane: one engine, and the streams that its deltas go to.

Knows asyncio queues and the engine protocol; knows nothing of actors, wires or where weights come
from. Called by the generator, all in its loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from realnet.roles.generator.engine import Engine
from realnet.roles.messages import Delta, Generate


class Lane:
    """`wake` is called when there is work for the engine."""

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self.engine = engine
        self.tokens = 0
        self._wake = wake
        self._streams: dict[int, asyncio.Queue[Delta]] = {}
        self._next = 0
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        engine = self.engine
        return engine.version is not None and bool(engine.num_running or engine.num_waiting)

    def hold(self) -> Lane:
        """Count one more user: a lane with users keeps its weights."""
        self._users += 1
        self._idle.clear()
        return self

    def release(self) -> None:
        """Count one user less."""
        self._users -= 1
        if not self._users:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody uses this lane."""
        await self._idle.wait()

    async def stream(self, request: Generate) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of a request; closing this early ends the request in the engine."""
        self._next += 1
        number = self._next
        arrived: asyncio.Queue[Delta] = asyncio.Queue()
        self.engine.submit(number, request)
        self._streams[number] = arrived
        self._wake()
        try:
            while True:
                delta = await arrived.get()
                yield delta
                if delta.finish:
                    return
        finally:
            if self._streams.pop(number, None) is not None:
                self.engine.abort(number)
                self._wake()

    def deliver(self, sent: Iterable[tuple[int, Delta]]) -> None:
        """Hand what a step returned to the streams; what nobody waits for any more is dropped."""
        for number, delta in sent:
            self.tokens += len(delta.token_ids)
            stream = self._streams.get(number)
            if stream is not None:
                stream.put_nowait(delta)
                if delta.finish:
                    del self._streams[number]
