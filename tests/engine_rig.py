"""An engine of any kind for tests: weights by seed, requests, and what the answers must be.

The references are transformers' full forward passes: one version's over the whole prefix, or, with
old keys and values kept, the cache of the old version and the weights of the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from realnet.config import Bytes
from realnet.roles.generator.engine import Engine, EngineConfig, FakeConfig, make_engine
from realnet.roles.generator.vllm.config import VllmConfig
from realnet.roles.messages import Delta, Generate, Manifest, Sampling, Version
from realnet.roles.models.build import build_model, named_weights
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy
from realnet.roles.weights import fill, layout
from realnet.roles.weights.room import Room

CONTEXT = 128
POLICY = Policy(
    model="new:qwen3",
    tokenizer="new:chars",
    context=CONTEXT,
    shape={"num_key_value_heads": 2, "head_dim": 32},
)
TOKENIZER = load_tokenizer(POLICY, Path())
VOCAB = TOKENIZER.vocab_size
FAKE_VOCAB = 32
BOUND = 1e-4  # of a log-probability in fp32


@cache
def model(seed: int) -> PreTrainedModel:
    """A model whose distributions are far from flat, so that a mistake shows."""
    built = build_model(POLICY, TOKENIZER, Path(), seed)
    for name, weight in named_weights(built):
        if weight.dim() > 1:
            weight.mul_(4 if "embed" not in name else 6)
    return built


def version(number: int) -> Version:
    return Version("policy", 0, number)


def request(prompt: Iterable[int], *, so_far: Iterable[int] = (), **sampling: Any) -> Generate:
    return Generate(
        policy="policy",
        prompt_ids=np.array(list(prompt), np.int32),
        sampling=Sampling(**({"max_tokens": 24} | sampling)),
        tokens_so_far=np.array(list(so_far), np.int32),
    )


def config_of(kind: str, **more: Any) -> EngineConfig:
    """ "torch", "fake", "vllm" (its own process) or "vllm-here" (ours), with "-stale" behind it."""
    table: dict[str, Any] = {"kind": kind.split("-")[0], "slots": 64, "flush": 8, "device": "cpu"}
    if kind.endswith("-stale"):
        table["kv"] = "stale"
    table["vllm"] = VllmConfig(kv_cache=Bytes(64 * 2**20), own_process="-here" not in kind)
    table["fake"] = FakeConfig(mean=100.0, vocab=FAKE_VOCAB)
    return EngineConfig(**(table | more))


class Around:
    """What an engine needs of its generator: a compute thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    async def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    @asynccontextmanager
    async def waiting(self, on: str) -> AsyncIterator[None]:
        yield

    def close(self) -> None:
        self._pool.shutdown()


class Rig:
    """An engine, running, and the versions it was given: which model's weights each has."""

    def __init__(self, kind: str, engine: Engine) -> None:
        self.kind = kind
        self.engine = engine
        self.running = asyncio.create_task(engine.run())
        self.room = Room()
        self.models: dict[int, int] = {}
        self.stale = kind.endswith("-stale")

    @property
    def fake(self) -> bool:
        return self.kind == "fake"

    def manifest(self, seed: int, number: int, dtype: str = "float32") -> Manifest:
        """Put a version into the room."""
        named = named_weights(model(seed))
        plan = layout(version(number), [(n, dtype, tuple(w.shape)) for n, w in named])
        arrays = [
            w.numpy() if dtype == "float32" else w.to(torch.bfloat16).view(torch.uint16).numpy()
            for _, w in named
        ]
        return fill(plan, self.room.make(plan.num_bytes), arrays)

    async def load(self, seed: int) -> int:
        """Give the engine the weights of a model under the next number; return it."""
        number = len(self.models)
        self.models[number] = seed
        if self.fake:
            await self.engine.stage(Manifest(version(number), (), 0, ""), self.room)
        else:
            await self.engine.stage(self.manifest(seed, number), self.room)
        await self.engine.swap()
        assert self.engine.version == version(number)
        return number

    async def swap(self, manifest: Manifest) -> None:
        """Give the engine what is in the room: weights of no seed."""
        self.models[len(self.models)] = -1
        await self.engine.stage(manifest, self.room)
        await self.engine.swap()

    async def greedy(self, prompt: list[int], length: int) -> tuple[list[int], list[Any]]:
        """What it writes without chance, and how it scores that."""
        answer = await self.answer(request(prompt, temperature=0.0, max_tokens=length))
        scored = await self.engine.score([np.array(prompt + answer.tokens(), np.int32)])
        return answer.tokens(), [answer.logprobs(), *scored]

    async def answer(self, asked: Generate, told: Callable[[], None] | None = None) -> Answer:
        """Write a whole answer. `told` is called when its first tokens have come."""
        writing = asyncio.create_task(self._answer(asked, told))
        await asyncio.wait({writing, self.running}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            writing.cancel()
            await self.running  # the engine failed: by this
        return await writing

    async def _answer(self, asked: Generate, told: Callable[[], None] | None) -> Answer:
        answer = Answer(asked)
        async for delta in self.engine.stream(asked):
            answer.add(delta)
            if told is not None:
                told()
                told = None
        return answer

    def check(self, answer: Answer) -> None:
        """Every token's log-probability is that of the version which is said to have written it."""
        ids = answer.ids()
        if self.fake:
            assert np.allclose(answer.logprobs(), -np.log(FAKE_VOCAB))
            return
        temperature = answer.request.sampling.temperature or 1.0
        position = answer.start
        cache: DynamicCache | None = None
        with torch.no_grad():
            for number, count in answer.spans():
                whole = model(self.models[number])
                end = position + count
                if self.stale and cache is not None:
                    ids_now = torch.tensor(ids[position - 1 : end - 1])[None]
                    rows = whole(ids_now, None, None, cache).logits[0]
                else:
                    cache = DynamicCache()
                    # By its place: transformers 5.24 gave the cache another name.
                    rows = whole(torch.tensor(ids[: end - 1])[None], None, None, cache).logits
                    rows = rows[0, position - 1 :]
                logp = (rows / temperature).log_softmax(-1)
                wanted = logp.gather(1, torch.tensor(ids[position:end])[:, None])[:, 0].numpy()
                offset = position - answer.start
                given = answer.logprobs()[offset : offset + count]
                assert np.abs(wanted - given).max() < BOUND, (number, position, end)
                position = end


class Answer:
    """What came of one request."""

    def __init__(self, asked: Generate) -> None:
        self.request = asked
        self.deltas: list[Delta] = []

    def add(self, delta: Delta) -> None:
        assert not self.finish, "a delta after the last one"
        assert len(delta.token_ids) == len(delta.logprobs)
        self.deltas.append(delta)

    @property
    def finish(self) -> str:
        return self.deltas[-1].finish if self.deltas else ""

    @property
    def start(self) -> int:
        return len(self.request.prompt_ids) + len(self.request.tokens_so_far)

    def tokens(self) -> list[int]:
        return [int(t) for d in self.deltas for t in d.token_ids]

    def logprobs(self) -> np.ndarray[Any, Any]:
        return np.concatenate([d.logprobs for d in self.deltas])

    def ids(self) -> list[int]:
        before = [*self.request.prompt_ids.tolist(), *self.request.tokens_so_far.tolist()]
        return [*before, *self.tokens()]

    def spans(self) -> list[tuple[int, int]]:
        """(version's number, tokens), neighbours of one version put together."""
        found: list[tuple[int, int]] = []
        for delta in self.deltas:
            number, count = delta.version.number, len(delta.token_ids)
            if found and found[-1][0] == number:
                count += found.pop()[1]
            if count:
                found.append((number, count))
        return found


@asynccontextmanager
async def rig(kind: str, work: Path, policy: Policy = POLICY, **more: Any) -> AsyncIterator[Rig]:
    """A running engine without a version."""
    around = Around()
    engine = make_engine(config_of(kind, **more), policy, VOCAB, Path(), work, 7, around)
    await engine.start()
    made = Rig(kind, engine)
    try:
        yield made
    finally:
        made.running.cancel()
        await asyncio.gather(made.running, return_exceptions=True)
        await engine.close()
        made.room.close()
        around.close()
