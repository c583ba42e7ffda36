"""The fake engine: no model, no torch; made-up tokens at a configured rate and of drawn lengths.

Everything follows from seeds, so that a simulation repeats itself. For tests of the roles around an
engine, and for planning.

Knows requests and versions; knows nothing of actors. Called by the generator.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from realnet.errors import ensure
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.row import Inbox, Row, check
from realnet.roles.messages import Delta, Floats, Generate, Ints, Version

ANY_ID = 2**31 - 1


class FakeEngine:
    """See `engine.Core`. `sleep` is what waiting for the rate is: a simulation hands its own."""

    def __init__(
        self,
        config: EngineConfig,
        context: int,
        seed: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._context = context
        self._sleep = sleep
        self._rng = random.Random(seed)
        self._inbox = Inbox()
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._ready: list[tuple[int, Delta]] = []
        self._staged: Version | None = None
        self._version: Version | None = None
        self._poked = False

    @property
    def version(self) -> Version | None:
        return self._version

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + self._inbox.num_submitted()

    def submit(self, request_id: int, request: Generate) -> None:
        check(request, ANY_ID)
        seed = request.sampling.seed
        drawn = self._rng.getrandbits(63) if seed is None else seed
        self._inbox.submit(Row(request_id, request, self._context, drawn))

    def abort(self, request_id: int) -> None:
        self._inbox.abort(request_id)

    def poke(self) -> None:
        self._poked = True

    def step(self, max_tokens: int) -> list[tuple[int, Delta]]:
        self._receive()
        if self._version is not None:
            while self._waiting and len(self._rows) < self._config.slots:
                self._rows.append(self._waiting.popleft())
            for _ in range(max_tokens):
                if not self._rows or self._poked:
                    break
                self._write()
        self._poked = False
        ready, self._ready = self._ready, []
        return ready

    def stage(self, weights: Mapping[str, np.ndarray[Any, Any]], version: Version) -> None:
        self._staged = version

    def swap(self) -> None:
        ensure(self._staged is not None, "swap without a staged version")
        for row in self._rows:
            if row.unsent:
                self._ready.append((row.id, row.delta(self._version)))
        self._version, self._staged = self._staged, None

    def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        flat = -math.log(self._config.fake.vocab)
        return [np.full(len(ids) - 1, flat, np.float32) for ids in sequences]

    def _receive(self) -> None:
        for request_id, row in self._inbox.take():
            if row is not None:
                self._waiting.append(row)
                continue
            for gone in [r for r in (*self._waiting, *self._rows) if r.id == request_id]:
                (self._rows if gone in self._rows else self._waiting).remove(gone)
                self._ready.append((request_id, gone.delta(self._version, "abort")))

    def _write(self) -> None:
        """Write one token in every row."""
        if self._config.fake.rate:
            self._sleep(1 / self._config.fake.rate)
        for row in tuple(self._rows):
            finish = "length"
            if row.left:
                stops = row.request.sampling.stop_ids
                last = row.drawn + 1 >= self._length(row)
                token = stops[0] if last and stops else self._token(row)
                row.write(np.array([token]), np.array([-math.log(self._config.fake.vocab)]))
                finish = "stop" if last else "" if row.left else "length"
            if finish:
                self._rows.remove(row)
            if finish or row.unsent >= self._config.flush:
                self._ready.append((row.id, row.delta(self._version, finish)))

    def _length(self, row: Row) -> int:
        """Return the length of the whole answer: the same each time it is asked for."""
        fake = self._config.fake
        if fake.lengths == "constant":
            return round(fake.mean)
        draw = random.Random(row.seed)
        # A lognormal with this mean has its log centred sigma^2 / 2 below the mean's log.
        return max(
            1, round(draw.lognormvariate(math.log(fake.mean) - fake.sigma**2 / 2, fake.sigma))
        )

    def _token(self, row: Row) -> int:
        """Return a token that follows from seed and position and stops nothing."""
        draw = random.Random(f"{row.seed}/{row.drawn}")
        stops = row.request.sampling.stop_ids
        allowed = [t for t in range(self._config.fake.vocab) if t not in stops]
        return draw.choice(allowed)
