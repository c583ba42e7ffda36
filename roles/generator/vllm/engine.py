"""vLLM's AsyncLLM as an `Engine`: in the generator's loop, its core in a process of its own.

    request -> add_request -> deltas, cut where the version changed
    stage:  workers map the room and check it while tokens are written
    swap:   pause (keep) -> apply -> set version -> resume, as one; KV recomputed or kept

Which version wrote a token is what vLLM's core says of the step that wrote it; it is told a new
version only while it is paused, so that spans are exact. The prefix cache is salted with the
version, so that no key of an old one is met by a new request.

Knows AsyncLLM, of one release: what it uses of its inside is in this file. Knows nothing of actors
or of where weights come from. Called by the generator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from realnet.errors import ConfigError, RealnetError, ensure
from realnet.roles.generator.engine import EngineConfig, EngineDied, Surroundings
from realnet.roles.generator.row import check
from realnet.roles.generator.vllm.deltas import deltas_of, starts_of
from realnet.roles.generator.vllm.environment import prepare
from realnet.roles.generator.vllm.model import arguments, check_weights, expected, folder_of, told
from realnet.roles.generator.vllm.staging import Staging
from realnet.roles.messages import Delta, Floats, Generate, Ints, Manifest, Version
from realnet.roles.tables import Policy
from realnet.roles.weights.room import Room

_JOIN_S = 10.0  # until the kernel has ended a killed process
_STEP_S = 0.5  # most that a swap waits for a token of the version before
_EMPTY = np.zeros(0, np.int32), np.zeros(0, np.float32)


class VllmEngine:
    """See `engine.Engine`. `work` is a folder for what vLLM must find on disk."""

    takes_weights = True
    opens_loans = True

    def __init__(
        self,
        config: EngineConfig,
        policy: Policy,
        vocab_size: int,
        base: Path,
        work: Path,
        seed: int,
        around: Surroundings,
    ) -> None:
        self.tokens = 0
        self._config = config
        self._policy = policy
        self._vocab_size = vocab_size
        self._base = base
        self._work = work
        self._seed = seed
        self._around = around
        self._llm: Any = None
        self._requests = 0
        self._queued = 0  # requests that wait for the first version
        self._turn = asyncio.Lock()  # one version is staged and swapped at a time
        self._first = asyncio.Event()
        self._dead = asyncio.Event()
        self._wrote = asyncio.Event()  # since the last swap
        self._why = ""
        self._version: Version | None = None
        self._staged: Version | None = None
        self._names: dict[str, Version] = {}
        self._known: dict[str, tuple[int, ...]] = {}
        self.cached_tokens = 0  # of prompts, that the prefix cache gave
        self._device = ""
        workers = config.vllm.tensor_parallel
        self._staging = Staging(self._call, workers, self._dead, self._die)

    @property
    def version(self) -> Version | None:
        return self._version

    @property
    def device(self) -> str:
        return self._device

    @property
    def num_running(self) -> int:
        return min(self._unfinished(), self._config.slots)

    @property
    def num_waiting(self) -> int:
        return self._queued + max(0, self._unfinished() - self._config.slots)

    def _unfinished(self) -> int:
        return 0 if self._llm is None else int(self._llm.get_num_unfinished_requests())

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        self._llm = await self._around.compute(self._build, label="start vLLM")
        loop = asyncio.get_running_loop()
        for process in self._processes():
            loop.add_reader(process.sentinel, self._ended, process)
        from realnet.roles.generator.vllm.sampling import check_effective

        check_effective(self._llm.input_processor, self._llm.model_config.logprobs_mode)
        self._device = await self._staging.device()

    def _build(self) -> Any:
        prepare(self._config)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        folder = folder_of(self._policy, self._base, self._work)
        self._known = expected(folder)
        table = arguments(self._config, self._policy, folder, self._seed)
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**table))
        except Exception as error:  # vLLM raises all kinds, its own process's among them
            vllm = self._config.vllm
            room = int(vllm.kv_cache) or f"what memory = {vllm.memory:g} of the device leaves"
            raise ConfigError(
                f'[roles.generator].engine.kind = "vllm" cannot run {self._policy.model} '
                f"({self._policy.dtype}, context {self._policy.context}, kv_cache {room}): "
                f"{told(error)}. Lines above it in this role's "
                "log say more"
            ) from error

    def _processes(self) -> list[Any]:
        manager = self._llm.engine_core.resources.engine_manager
        return list(manager.processes) if manager is not None else []

    def _ended(self, process: Any) -> None:
        asyncio.get_running_loop().remove_reader(process.sentinel)
        self._die(f"vLLM's process {process.name} (pid {process.pid}) ended")

    def _die(self, why: str) -> EngineDied:
        self._why = self._why or why
        self._dead.set()
        self._wrote.set()
        self._first.set()
        return EngineDied(f"{self._why}; what it wrote so far stays with those who asked")

    def _fell(self) -> EngineDied:
        """vLLM says that its engine is dead: name the process, also where vLLM saw it first."""
        processes = self._llm.engine_core.resources.engine_manager.processes if self._llm else ()
        for process in processes:
            if not process.is_alive():
                return self._die(f"vLLM's process {process.name} (pid {process.pid}) ended")
        return self._die("vLLM's engine is dead")

    async def run(self) -> None:
        async with self._around.waiting("vLLM, which writes in a process of its own"):
            await self._dead.wait()
        raise self._die("vLLM ended")

    async def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is None:
            return
        loop = asyncio.get_running_loop()
        processes = list(llm.engine_core.resources.engine_manager.processes)
        for process in processes:
            loop.remove_reader(process.sentinel)
            process.kill()  # it holds nothing that is not held elsewhere
        if not self._dead.is_set():  # else there is nobody to talk to: it would wait for an answer
            llm.shutdown(timeout=0)
        for process in processes:
            await self._around.compute(process.join, _JOIN_S, label="end vLLM")
        await asyncio.sleep(0)  # its tasks end with their sockets

    # ------------------------------------------------------------ requests

    async def stream(self, request: Generate) -> AsyncGenerator[Delta, None]:
        check(request, self._vocab_size)
        self._queued += 1
        try:
            await self._first.wait()
        finally:
            self._queued -= 1
        version = self._alive()
        before = len(request.tokens_so_far)
        start = len(request.prompt_ids) + before
        room = min(request.sampling.max_tokens - before, self._policy.context - start)
        if room <= 0:
            yield Delta(*_EMPTY, version, "length")
            return
        queue = await self._add(request, version, room)
        # vLLM tells of versions only at the end; it knows them while it writes.
        state = self._llm.output_processor.request_states.get(queue.request_id)
        written, finished = 0, False
        try:
            while not finished:
                output = await self._next(queue)
                part = output.outputs[0]
                if not written:
                    self.cached_tokens += output.num_cached_tokens or 0
                finished = output.finished
                count = len(part.token_ids)
                self.tokens += count
                if count:
                    self._wrote.set()
                finish = str(part.finish_reason) if finished else ""
                starts = starts_of(part, state)
                try:
                    deltas = list(deltas_of(part, starts, written, self._names, version, finish))
                except RealnetError as error:
                    raise self._die(str(error)) from error
                for delta in deltas:
                    yield delta
                written += len(part.token_ids)
        finally:
            if not finished and self._llm is not None and not self._dead.is_set():
                await self._llm.abort(queue.request_id, internal=True)
            queue.close()
            self._wrote.set()

    def _alive(self) -> Version:
        if self._dead.is_set() or self._llm is None:
            raise self._die("vLLM was closed")
        ensure(self._version is not None, "a request was let in before the first version")
        assert self._version is not None
        return self._version

    async def _add(self, request: Generate, version: Version, room: int) -> Any:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        from realnet.roles.generator.vllm.sampling import params_of, tokens_of

        params = params_of(request.sampling, max_tokens=room, before=len(request.tokens_so_far))
        prompt = {"prompt_token_ids": tokens_of(request), "cache_salt": str(version)}
        self._requests += 1
        try:
            return await self._llm.add_request(str(self._requests), prompt, params)
        except EngineDeadError:
            raise self._fell() from None
        except (VLLMClientError, ValueError) as error:
            raise RealnetError(f"vLLM refuses this request: {error}") from error

    async def _next(self, queue: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return queue.get_nowait() or await queue.get()
        except EngineDeadError:
            raise self._fell() from None

    async def abort(self) -> None:
        if self._llm is not None:
            running = list(self._llm.output_processor.request_states)
            await self._llm.abort(running, internal=True)

    # ------------------------------------------------------------ weights

    async def stage(self, manifest: Manifest, room: Room) -> None:
        name = str(manifest.version)
        found = {t.name: (t.dtype, tuple(t.size)) for t in manifest.tensors}
        check_weights(manifest.version, found, self._known, self._policy.dtype)
        async with self._turn:
            self._names[name] = manifest.version
            try:
                await self._staging.stage(manifest, room)
            except EngineDied:
                raise
            except RealnetError as error:
                raise RealnetError(
                    f"{name} is not used, vLLM keeps {self._version}: {error}"
                ) from error
            self._staged = manifest.version

    async def swap(self) -> float:
        async with self._turn:
            staged = self._staged
            ensure(staged is not None, "swap without a staged version")
            assert staged is not None
            await self._written()
            start_s = time.monotonic()
            await self._pause()
            await self._staging.load(staged)
            await self._core("set_weight_version_async", str(staged))
            self._version, self._staged = staged, None
            self._wrote.clear()
            await self._core("resume_scheduler_async")
            self._first.set()
            return time.monotonic() - start_s

    async def _written(self) -> None:
        """Let what runs go on by a token since the last swap: updates in a row starve nobody."""
        if self._unfinished() and not self._wrote.is_set():
            with suppress(TimeoutError):  # who asked may take nothing at the moment
                await asyncio.wait_for(self._wrote.wait(), _STEP_S)

    async def _pause(self) -> None:
        """Freeze all requests; with kv = "recompute" they will read all they have again."""
        clear = self._config.kv == "recompute"
        await self._core("pause_scheduler_async", mode="keep", clear_cache=clear)

    async def _call(self, method: str, keywords: dict[str, Any] | None = None) -> None:
        """Call a method of every worker."""
        await self._core("collective_rpc_async", method, kwargs=keywords or {})

    async def _core(self, method: str, *args: Any, **keywords: Any) -> None:
        """Call vLLM's core."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None or self._dead.is_set():
            raise self._die("vLLM was closed")
        try:
            await getattr(self._llm.engine_core, method)(*args, **keywords)
        except EngineDeadError:
            raise self._fell() from None

    # ------------------------------------------------------------ scores

    async def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        return list(await asyncio.gather(*(self._score(ids) for ids in sequences)))

    async def _score(self, ids: Ints) -> Floats:
        from realnet.roles.generator.vllm.sampling import score_params

        self._requests += 1
        prompt = {"prompt_token_ids": ids.tolist(), "cache_salt": f"score {self._requests}"}
        queue = await self._llm.add_request(str(self._requests), prompt, score_params())
        output = await self._next(queue)
        given = output.prompt_logprobs[1:]
        return np.array(
            [at[token].logprob for at, token in zip(given, ids[1:].tolist(), strict=True)],
            np.float32,
        )
