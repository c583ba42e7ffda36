"""vLLM's LLMEngine as a `Core`: in the generator's process, stepped in its compute thread.

One process instead of two: for tests, and for small models that share a process with other roles.
An engine that fails here fails its generator.

Knows LLMEngine, of one release. Knows nothing of actors. Called by `stepped`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realnet.errors import ConfigError, ensure
from realnet.roles.generator.engine import EngineConfig, EngineDied
from realnet.roles.generator.row import Inbox, Row, check
from realnet.roles.generator.vllm.environment import prepare
from realnet.roles.generator.vllm.model import arguments, check_weights, expected, folder_of, told
from realnet.roles.messages import Delta, Floats, Generate, Ints, Version
from realnet.roles.tables import Policy

_DTYPES = {"uint16": "bfloat16"}  # numpy has none


class VllmCore:
    """See `engine.Core`. A row keeps what vLLM wrote until it is due to be sent."""

    def __init__(
        self,
        config: EngineConfig,
        policy: Policy,
        vocab_size: int,
        base: Path,
        work: Path,
        seed: int,
    ) -> None:
        prepare(config)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from realnet.roles.generator.vllm.sampling import check_effective

        folder = folder_of(policy, base, work)
        self._known, self._dtype = expected(folder), policy.dtype
        table = arguments(config, policy, folder, seed)
        table |= {"stream_interval": 1}
        try:
            self._llm: Any = LLMEngine.from_engine_args(
                EngineArgs(**table), enable_multiprocessing=False
            )
        except Exception as error:  # vLLM raises all kinds
            raise ConfigError(
                f'[roles.generator].engine.kind = "vllm" cannot run {policy.model}: {told(error)}'
            ) from error
        check_effective(self._llm.input_processor, self._llm.model_config.logprobs_mode)
        self._config = config
        self._context = policy.context
        self._vocab_size = vocab_size
        self._inbox = Inbox()
        self._waiting: deque[Row] = deque()
        self._rows: dict[str, Row] = {}
        self._ready: list[tuple[int, Delta]] = []
        self._staged: tuple[list[tuple[str, Any]], Version] | None = None
        self._version: Version | None = None
        self._poked = False
        self._scores: dict[str, Any] = {}

    @property
    def version(self) -> Version | None:
        return self._version

    @property
    def device(self) -> str:
        return ""

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + self._inbox.num_submitted()

    def submit(self, request_id: int, request: Generate) -> None:
        from realnet.roles.generator.vllm.sampling import params_of

        check(request, self._vocab_size)
        params_of(request.sampling, max_tokens=1, before=0)  # here its caller is told
        self._inbox.submit(Row(request_id, request, self._context, 0))

    def abort(self, request_id: int) -> None:
        self._inbox.abort(request_id)

    def poke(self) -> None:
        self._poked = True

    # ------------------------------------------------------------ tokens

    def step(self, max_tokens: int) -> list[tuple[int, Delta]]:
        self._receive()
        if self._version is not None:
            self._join(self._version)
            for _ in range(max_tokens):
                if self._poked or not self._rows:
                    break
                self._write()
        self._poked = False
        ready, self._ready = self._ready, []
        return ready

    def _receive(self) -> None:
        for request_id, row in self._inbox.take():
            if row is not None:
                self._waiting.append(row)
                continue
            for gone in [w for w in self._waiting if w.id == request_id]:
                self._waiting.remove(gone)
                self._send(gone, "abort")
            if (running := self._rows.pop(str(request_id), None)) is not None:
                self._llm.abort_request([str(request_id)])
                self._send(running, "abort")

    def _join(self, version: Version) -> None:
        from realnet.roles.generator.vllm.sampling import params_of, tokens_of

        while self._waiting and len(self._rows) < self._config.slots:
            row = self._waiting.popleft()
            if row.left == 0:
                self._send(row, "length")
                continue
            prompt = {"prompt_token_ids": tokens_of(row.request), "cache_salt": str(version)}
            params = params_of(row.request.sampling, max_tokens=row.left, before=row.drawn)
            self._llm.add_request(str(row.id), prompt, params)
            self._rows[str(row.id)] = row

    def _write(self) -> None:
        """Let vLLM take one step."""
        for output in self._llm.step():
            row = self._rows.get(output.request_id)
            if row is None:  # it scores, or was aborted
                self._scores[output.request_id] = output.prompt_logprobs
                continue
            part = output.outputs[0]
            count = len(part.token_ids)
            logprobs = part.logprobs.logprobs if count else ()
            row.write(np.array(part.token_ids, np.int32), np.array(logprobs, np.float32))
            if output.finished:
                del self._rows[output.request_id]
                self._send(row, str(part.finish_reason))
            elif row.unsent >= self._config.flush:
                self._send(row, "")

    def _send(self, row: Row, finish: str) -> None:
        self._ready.append((row.id, row.delta(self._version, finish)))

    # ------------------------------------------------------------ weights

    def stage(self, weights: Mapping[str, np.ndarray[Any, Any]], version: Version) -> None:
        from realnet.roles.generator.vllm.transfer import as_torch

        found = {n: (_DTYPES.get(a.dtype.name, a.dtype.name), a.shape) for n, a in weights.items()}
        check_weights(version, found, self._known, self._dtype)
        kept = {name: array.copy() for name, array in weights.items()}
        self._staged = (list(as_torch(kept)), version)

    def swap(self) -> None:
        ensure(self._staged is not None, "swap without a staged version")
        assert self._staged is not None
        for row in self._rows.values():
            if row.unsent:
                self._send(row, "")
        weights, version = self._staged
        from realnet.roles.generator.vllm.transfer import load

        def apply(worker: Any) -> None:
            load(worker.model_runner.model, worker.model_config, worker.vllm_config, weights)

        for attempt in (1, 2):  # what failed half-way is loaded again, all of it
            try:
                self._llm.collective_rpc(apply)
                break
            except Exception as error:  # of vLLM's model loading
                if attempt == 2:
                    raise EngineDied(f"vLLM could not load {version}: {error}") from error
        self._version, self._staged = version, None
        if self._config.kv == "recompute":
            self._llm.reset_prefix_cache(reset_running_requests=True)

    # ------------------------------------------------------------ scores

    def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        """As `engine.Core`; what runs is written on meanwhile, and sent at the next step."""
        from realnet.roles.generator.vllm.sampling import score_params

        names = [f"score {number}" for number in range(len(sequences))]
        for name, ids in zip(names, sequences, strict=True):
            prompt = {"prompt_token_ids": ids.tolist(), "cache_salt": name}
            self._llm.add_request(name, prompt, score_params())
        self._scores.clear()
        while not all(name in self._scores for name in names):
            self._write()
        found = self._scores
        return [
            np.array(
                [at[t].logprob for at, t in zip(found[n][1:], ids[1:].tolist(), strict=True)],
                np.float32,
            )
            for n, ids in zip(names, sequences, strict=True)
        ]
