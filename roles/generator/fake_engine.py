"""The fake engine: no model, no torch; made-up tokens at a configured rate and of drawn lengths.

Everything follows from seeds, so that a simulation repeats itself. For tests of the roles around an
engine, and for planning.

Knows requests and versions; knows nothing of actors. Called by the generator.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from realnet.errors import ensure
from realnet.roles.generator.dice import uniforms
from realnet.roles.generator.engine import EngineConfig, FakeConfig
from realnet.roles.generator.row import Inbox, Row, check
from realnet.roles.messages import Delta, Floats, Generate, Ints, Version

ANY_ID = 2**31 - 1


class FakeEngine:
    """See `engine.Core`. `sleep` and `now` are what waiting for the rate is.

    At a rate, tokens are due at fixed times, and what the host is late by is made up for, up to a
    block: as a device writes its next block while the host looks at the last one. An engine that
    had nothing to write starts anew.
    """

    def __init__(
        self,
        config: EngineConfig,
        context: int,
        seed: int,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._context = context
        self._sleep = sleep
        self._now = now
        self._due_s = -math.inf  # when the last token was to be written
        self._rng = random.Random(seed)
        self._inbox = Inbox()
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._ready: list[tuple[int, Delta]] = []
        self._staged: Version | None = None
        self._version: Version | None = None
        self._poked = False
        self._lengths: dict[int, int] = {}  # of whole answers, by request

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
            if self._rows:
                self._write(max_tokens)
        if not self._rows:
            self._due_s = -math.inf
        self._poked = False
        ready, self._ready = self._ready, []
        return ready

    def stage(self, weights: Mapping[str, np.ndarray[Any, Any]], version: Version) -> None:
        self._staged = version

    def swap(self) -> None:
        ensure(self._staged is not None, "swap without a staged version")
        for row in self._rows:
            if row.unsent:
                self._end(row, "")
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
                self._end(gone, "abort")

    def _write(self, most: int) -> None:
        """Write up to `most` tokens in every row; the longest row ends it early, and so does poke.

        What a row wrote is put into it once a block, so that the cost of pretending is small.
        """
        rows = self._rows
        ends = [self._tokens_left(row) for row in rows]
        steps = self._wait(min(most, max(ends)))
        seeds = np.array([row.seed % 2**64 for row in rows], np.uint64)
        dice = uniforms(seeds, np.array([row.drawn for row in rows]), steps)
        for index, row in enumerate(tuple(rows)):
            count = min(steps, ends[index])
            last = count == ends[index]
            self._fill(row, dice[:count, index], last=last)
            if last:
                rows.remove(row)
                self._end(row, "stop" if self._is_whole(row) else "length")
            elif row.unsent >= self._config.flush:
                self._end(row, "")

    def _wait(self, most: int) -> int:
        """Wait until `most` tokens are due, or until a poke; return how many are."""
        rate = self._config.fake.rate
        if not rate:
            return 0 if self._poked else most
        steps, now_s = 0, self._now()
        lag_s = self._config.block / rate
        self._due_s = now_s if self._due_s == -math.inf else max(self._due_s, now_s - lag_s)
        while steps < most and not self._poked:
            self._due_s += 1 / rate
            if (left_s := self._due_s - self._now()) > 0.0:
                self._sleep(left_s)
            steps += 1
        return steps

    def _fill(self, row: Row, dice: np.ndarray[Any, Any], *, last: bool) -> None:
        """Write one token for each number; the last of a whole answer is a stop token."""
        stops = row.request.sampling.stop_ids
        allowed = _allowed(self._config.fake.vocab, stops)
        tokens = allowed[(dice * len(allowed)).astype(np.int64)]
        row.write(tokens, np.full(len(tokens), -math.log(self._config.fake.vocab), np.float32))
        if last and stops and row.written and self._is_whole(row):
            row.ids[row.length - 1] = stops[0]

    def _end(self, row: Row, finish: str) -> None:
        """Send what a row wrote; with `finish` it is its last."""
        self._ready.append((row.id, row.delta(self._version, finish)))
        if finish:
            self._lengths.pop(row.id, None)

    def _tokens_left(self, row: Row) -> int:
        """Return after how many tokens a row ends; 0 when there is no room for one."""
        return min(row.left, max(1, self._length(row) - row.drawn))

    def _is_whole(self, row: Row) -> bool:
        """Tell whether a row has all the tokens of its answer, rather than no more room."""
        return row.drawn >= self._length(row) and row.written > 0

    def _length(self, row: Row) -> int:
        """Return the length of the whole answer; it follows from the row's seed."""
        known = self._lengths.get(row.id)
        if known is None:
            known = self._lengths[row.id] = _draw_length(self._config.fake, row.seed)
        return known


def _draw_length(fake: FakeConfig, seed: int) -> int:
    if fake.lengths == "constant":
        return round(fake.mean)
    # A lognormal with this mean has its log centred sigma^2 / 2 below the mean's log.
    centre = math.log(fake.mean) - fake.sigma**2 / 2
    return max(1, round(random.Random(seed).lognormvariate(centre, fake.sigma)))


@functools.lru_cache(maxsize=64)
def _allowed(vocab: int, stops: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return the tokens that stop nothing."""
    return np.array([t for t in range(vocab) if t not in stops], np.int32)
