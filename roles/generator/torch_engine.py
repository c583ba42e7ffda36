"""The torch engine: continuous batching over a static KV cache, weights swapped between tokens.

Knows requests, rows and versions; the model's mathematics is in `decoder`, randomness in `sampler`
and `dice`.
Knows nothing of actors or of where weights come from. Called by the generator in its compute
thread.

A row that is prefilled has keys and values of all its tokens but the last; the last one goes
through the ordinary decode step. So there is one place where tokens are drawn, and a swap with
recomputed keys and values is a prefill of every running row with the new weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from realnet.errors import ConfigError, ensure
from realnet.roles.generator import sampler
from realnet.roles.generator.decoder_weights import Weights, read_weights
from realnet.roles.generator.dice import uniforms
from realnet.roles.generator.engine import EngineConfig, SwapUndone
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.generator.native_decoder import decoder_for
from realnet.roles.generator.prefill import prefill
from realnet.roles.generator.row import Inbox, Row, check
from realnet.roles.generator.scoring import score
from realnet.roles.messages import Delta, Floats, Generate, Ints, Version
from realnet.roles.models.shape import Shape
from realnet.roles.tables import Policy
from realnet.roles.weights import cuda_ipc

CPU_PREFILL = 1024  # tokens in one forward pass
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchEngine:
    """See `engine.Core`. Rows in use are always the first ones of the cache."""

    def __init__(self, shape: Shape, policy: Policy, config: EngineConfig, seed: int) -> None:
        self._device = device_of(config)
        if self._device.type == "cpu":
            torch.set_num_threads(config.threads)
        if policy.context > shape.max_positions > 0:
            raise ConfigError(
                f"[policy].context = {policy.context}, but the model knows {shape.max_positions} "
                f"positions. Lower [policy].context"
            )
        self._shape = shape
        self._config = config
        self._context = policy.context
        self._dtype = DTYPES[policy.dtype]
        self._decoder = decoder_for(shape, policy.context, self._dtype, self._device)
        self._cache = KVCache(shape, config.slots, policy.context, self._dtype, self._device)
        self._rng = np.random.default_rng(seed)
        self._inbox = Inbox()
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._ready: list[tuple[int, Delta]] = []
        self._knobs: sampler.Knobs | None = None  # of self._rows; None: rows changed
        self._staged: tuple[Weights, Version] | None = None
        self._version: Version | None = None
        self._poked = False

    # ------------------------------------------------------------ requests

    @property
    def version(self) -> Version | None:
        return self._version

    @property
    def device(self) -> str:
        return cuda_ipc.uuid_of(self._device)

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + self._inbox.num_submitted()

    def submit(self, request_id: int, request: Generate) -> None:
        check(request, self._shape.vocab_size)
        seed = request.sampling.seed
        drawn = int(self._rng.integers(2**63)) if seed is None else seed % 2**64
        self._inbox.submit(Row(request_id, request, self._context, drawn))

    def abort(self, request_id: int) -> None:
        self._inbox.abort(request_id)

    def poke(self) -> None:
        self._poked = True

    # ------------------------------------------------------------ tokens

    @torch.inference_mode()
    def step(self, max_tokens: int) -> list[tuple[int, Delta]]:
        self._receive()
        if self._version is not None:
            self._join()
            if self._rows:
                self._write(min(max_tokens, max(row.left for row in self._rows)))
        self._poked = False
        ready, self._ready = self._ready, []
        return ready

    def _receive(self) -> None:
        for request_id, row in self._inbox.take():
            if row is not None:
                self._waiting.append(row)
                continue
            for waiting in [w for w in self._waiting if w.id == request_id]:
                self._waiting.remove(waiting)
                self._end(waiting, "abort")
            for index in [i for i, r in enumerate(self._rows) if r.id == request_id]:
                self._end(self._rows[index], "abort")
                self._leave([index])

    def _join(self) -> None:
        """Give free rows to waiting requests, all prefilled together."""
        first = len(self._rows)
        while self._waiting and len(self._rows) < self._config.slots:
            row = self._waiting.popleft()
            if row.left == 0:
                self._end(row, "length")
            else:
                self._rows.append(row)
        if len(self._rows) > first:
            self._knobs = None
            self._prefill(first)

    def _prefill(self, first: int) -> None:
        prefixes = {i: self._rows[i].ids[: self._rows[i].length - 1] for i in self._from(first)}
        budget = self._config.prefill
        if self._device.type == "cpu":  # what a pass makes stays in the core's own cache
            budget = min(budget, CPU_PREFILL)
        prefill(self._decoder, self._cache, prefixes, budget, self._device)

    def _write(self, steps: int) -> None:
        """Write up to `steps` tokens in each row, and deal with rows that end.

        Nothing in the inner loop depends on the number of rows in Python, and on a GPU nothing in
        it waits for the device. A row that ends goes on writing into its own last position, unread.
        """
        rows, device = self._rows, self._device
        count = len(rows)
        if self._knobs is None:
            self._knobs = sampler.knobs_of([row.request.sampling for row in rows], device)
        knobs = self._knobs
        state = np.array([(r.ids[r.length - 1], r.length - 1, r.left, r.drawn) for r in rows])
        tokens, start, left = torch.from_numpy(state[:, :3].T.copy()).to(device)
        seeds = np.array([row.seed for row in rows], np.uint64)
        uniform = torch.from_numpy(uniforms(seeds, state[:, 3], steps)[..., None]).to(device)
        length = int(state[:, 1].max()) + 1
        positions, last = start.clone(), start + left - 1
        alive = torch.ones(count, dtype=torch.bool, device=device)
        drawn = []
        for step in range(steps):
            width = min(length + step, self._context)
            logits = self._decoder.decode(self._cache, tokens, positions, width)
            tokens, logprobs = sampler.draw(logits, knobs, uniform[step])
            drawn.append((tokens, logprobs))
            alive &= positions < last
            if knobs.stops is not None:
                alive &= (tokens[:, None] != knobs.stops).all(1)
            positions += alive
            if self._poked or (device.type == "cpu" and not alive.any()):
                break
        written = positions - start + ~alive  # a row that ended stays where its last token was read
        self._harvest(drawn, written, alive)

    def _harvest(
        self,
        drawn: list[tuple[torch.Tensor, torch.Tensor]],
        written: torch.Tensor,
        alive: torch.Tensor,
    ) -> None:
        """Move a block's tokens to their rows; send what is due; let go of rows that ended."""
        tokens = torch.stack([t for t, _ in drawn], 1).cpu().numpy()
        logprobs = torch.stack([p for _, p in drawn], 1).cpu().numpy()
        counts, alive_list = written.tolist(), alive.tolist()
        for index, row in enumerate(self._rows):
            count = counts[index]
            row.write(tokens[index, :count], logprobs[index, :count])
            if not alive_list[index]:
                stopped = int(tokens[index, count - 1]) in row.request.sampling.stop_ids
                self._end(row, "stop" if stopped else "length")
            elif row.unsent >= self._config.flush:
                self._end(row, "")
        self._leave([i for i, lives in enumerate(alive_list) if not lives])

    def _end(self, row: Row, finish: str) -> None:
        """Send what a row wrote; with `finish` it is its last."""
        self._ready.append((row.id, row.delta(self._version, finish)))

    def _leave(self, ended: Sequence[int]) -> None:
        """Free rows; the last ones move into their places, so that rows in use stay the first."""
        if not ended:
            return
        gone, kept = set(ended), len(self._rows) - len(ended)
        holes = [i for i in ended if i < kept]
        movers = [i for i in range(kept, len(self._rows)) if i not in gone]
        longest = max((self._rows[i].length - 1 for i in movers), default=0)
        self._cache.copy_rows(movers, holes, longest)
        for source, target in zip(movers, holes, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[kept:]
        self._knobs = None

    def _from(self, first: int) -> range:
        return range(first, len(self._rows))

    # ------------------------------------------------------------ weights

    @torch.inference_mode()
    def stage(self, weights: Mapping[str, Any], version: Version) -> None:
        self._staged = (read_weights(self._shape, weights, self._dtype, self._device), version)

    @torch.inference_mode()
    def swap(self) -> None:
        ensure(self._staged is not None, "swap without a staged version")
        assert self._staged is not None
        for row in self._rows:
            if row.unsent:
                self._end(row, "")
        before = self._decoder.weights, self._version
        (self._decoder.weights, self._version), self._staged = self._staged, None
        if self._config.kv == "stale" or not self._rows:
            return
        try:
            self._prefill(0)
        except Exception as error:  # whatever a device raises, above all that it has no room
            wanted = self._version
            self._decoder.weights, self._version = before
            self._prefill(0)  # what was overwritten, as it was; a device that cannot is dead
            raise SwapUndone(
                f"{wanted} was not swapped in, {self._version} goes on: {error}"
            ) from error

    # ------------------------------------------------------------ scores

    @torch.inference_mode()
    def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        longest = max(len(ids) for ids in sequences)
        cache = KVCache(self._shape, len(sequences), longest, self._dtype, self._device)
        return score(self._decoder, cache, sequences)


def device_of(config: EngineConfig) -> torch.device:
    """Return where an engine works. Raises ConfigError for a GPU that this process does not see."""
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f'[roles.generator].engine.device = "{config.device}", but this process sees '
            f"{torch.cuda.device_count() or 'no'} GPUs: give the role gpus = 1, or remove device"
        )
    return device
