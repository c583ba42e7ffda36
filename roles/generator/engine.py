"""What an engine is, seen from the generator: async, with weights that are swapped under its work.

    Engine   what a generator works with: streams of deltas, `stage`, `swap`, `score`, death
      SteppedEngine    drives a `Core`, which is synchronous, in the generator's compute thread
        Core           realnet's own torch engine, the fake engine, vLLM in this process
      VllmEngine       vLLM's AsyncLLM, which has a process and a loop of its own

The seam is async because vLLM is: its requests, pauses and weights are coroutines that end when
another process says so. A core is the other way round: it wants one thread that steps it, and pays
nothing for asyncio while it steps. One adapter (`stepped.py`) makes the second look like the first.
An engine that needs neither implements `Engine` by itself.

Every engine keeps these promises, and `tests/engines` holds them to it: token ids in and out; the
log-probability of the distribution that was sampled from; a delta is of one version; a swap loses
no token and doubles none; what is staged wrong leaves the running weights as they are; a request
that is aborted gives what it has.

Knows the protocols, their configuration and the kinds there are; knows nothing of torch, vLLM,
actors or where weights come from. Called by the generator.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from realnet.config import Config, doc
from realnet.errors import ConfigError, RealnetError
from realnet.roles.generator.vllm.config import VllmConfig
from realnet.roles.messages import Delta, Floats, Generate, Ints, Manifest, Version
from realnet.roles.tables import Policy
from realnet.roles.weights.room import Room

_HALF = 0.5  # of a device, at the most, for each of two engines


class EngineDied(RealnetError):
    """An engine cannot go on: its process ended, or its weights are neither old nor new."""


class SwapUndone(RealnetError):
    """A version could not be swapped in. The weights before it are back, and go on writing."""


class FakeConfig(Config):
    """`roles.generator.engine.fake`: how an engine without a model pretends to write."""

    rate: Annotated[float, doc("iterations a second; 0: as fast as possible", ge=0)] = 0.0
    lengths: Annotated[Literal["constant", "lognormal"], doc("of answers")] = "constant"
    mean: Annotated[float, doc("mean length of an answer, in tokens", ge=1)] = 32.0
    sigma: Annotated[float, doc("spread of the log of a lognormal length", ge=0)] = 0.8
    vocab: Annotated[int, doc("token ids are below this", ge=2)] = 32


class EngineConfig(Config):
    """`roles.generator.engine`: which engine, and how big."""

    kind: Annotated[
        Literal["torch", "vllm", "fake"], doc("torch: realnet's own; vllm; fake: no model")
    ] = "torch"
    slots: Annotated[int, doc("requests that run at once", ge=1)] = 64
    kv: Annotated[
        Literal["recompute", "stale"],
        doc("at a new version: recompute keys and values of what is running, or keep the old"),
    ] = "recompute"
    block: Annotated[int, doc("tokens a row between looks at the outside world", ge=1)] = 8
    flush: Annotated[int, doc("tokens of a request before a part of it is sent", ge=1)] = 32
    prefill: Annotated[int, doc("most prompt tokens in one forward pass", ge=1)] = 8192
    pinned: Annotated[
        Literal["auto", "second", "live"],
        doc(
            "answers that one version must write, once the next one is here: second, by a second "
            "engine, started when it is needed; live: the next one waits for them, and what is "
            "pinned to another is refused; auto: live where two vLLMs would take more than "
            "the device has (vllm.memory), else second"
        ),
    ] = "auto"
    device: Annotated[str, doc('"cpu", "cuda", "cuda:1"; empty: a GPU if there is one')] = ""
    threads: Annotated[int, doc("of torch on the CPU", ge=1)] = 1
    vllm: Annotated[VllmConfig, doc('of kind = "vllm"')] = VllmConfig()
    fake: Annotated[FakeConfig, doc('of kind = "fake"')] = FakeConfig()

    def __post_init__(self) -> None:
        """Refuse a second engine that could not start."""
        if self.pinned == "second" and not self._two_fit:
            raise ValueError(
                f'pinned = "second" with vllm.memory = {self.vllm.memory:g}: two vLLMs would take '
                'more than the device has. Write memory = 0.5 or less, or pinned = "live"'
            )

    @property
    def keeps_second(self) -> bool:
        """Whether there may be a second engine."""
        return self._two_fit if self.pinned == "auto" else self.pinned == "second"

    @property
    def _two_fit(self) -> bool:
        return self.kind != "vllm" or bool(self.vllm.kv_cache) or self.vllm.memory <= _HALF


class Surroundings(Protocol):
    """What an engine needs of its generator."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...


class Engine(Protocol):
    """Writes tokens for many requests at once. All in the generator's loop. See the module."""

    takes_weights: bool
    """Whether versions have bytes for it; a version of an engine without is only a name."""

    opens_loans: bool
    """Whether a process of its own opens what is lent on `device`; else the generator's does."""

    @property
    def device(self) -> str:
        """The GPU, by its uuid, out of whose memory it can take weights; "" if it cannot."""

    @property
    def version(self) -> Version | None:
        """The version that writes now; None before the first `swap`: requests wait until then."""

    @property
    def num_running(self) -> int:
        """Requests that are being written."""

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their turn."""

    @property
    def tokens(self) -> int:
        """Tokens written so far, to all requests."""

    async def start(self) -> None:
        """Build what writes. Raises ConfigError, by name, for what this engine cannot run."""

    async def run(self) -> None:
        """Work until cancelled. Raises EngineDied within a second of the engine's death."""

    async def close(self) -> None:
        """Let go of everything, an engine's own processes included."""

    def stream(self, request: Generate) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of a request until one with `finish`; closing this early ends it.

        Raises RealnetError when this engine can never serve it, EngineDied when it is dead.
        """

    async def abort(self) -> None:
        """End all requests: their streams bring what they have, with finish "abort"."""

    async def stage(self, manifest: Manifest, room: Room) -> None:
        """Prepare the version whose bytes are in `room`, while tokens are written.

        The room stays as it is until `swap` returned. Raises RealnetError and keeps the old.
        """

    async def swap(self) -> float:
        """Let the staged version write from the next token on; return how long tokens waited, s.

        All or nothing. Raises EngineDied when neither could be had.
        """

    async def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        """Return log pi(ids[t] | ids[:t]) for t >= 1 of each sequence, at temperature 1."""


class Core(Protocol):
    """Writes tokens for many requests at once, as far as it is stepped.

    `submit`, `abort` and `poke` may be called from any thread; the rest from one thread at a time.
    A request that was submitted gets deltas from `step` until one with `finish`; their tokens are
    all of one version. Before the first `swap` requests wait.
    """

    @property
    def device(self) -> str:
        """As `Engine.device`."""

    @property
    def version(self) -> Version | None:
        """The version that writes now."""

    @property
    def num_running(self) -> int:
        """Requests with a row of their own."""

    @property
    def num_waiting(self) -> int:
        """Requests submitted that have no row yet."""

    def submit(self, request_id: int, request: Generate) -> None:
        """Take a request. Raises RealnetError when this engine can never serve it."""

    def abort(self, request_id: int) -> None:
        """End a request at the next step with finish "abort"; its tokens so far stay valid."""

    def step(self, max_tokens: int) -> list[tuple[int, Delta]]:
        """Write up to `max_tokens` tokens for each row; return what is ready to be sent.

        Rows that end inside a step are replaced at the next. It returns early when all rows ended
        or `poke` was called, and at once when there is nothing to do.
        """

    def poke(self) -> None:
        """End the step that is running after its current token."""

    def stage(self, weights: Mapping[str, Any], version: Version) -> None:
        """Prepare weights beside the running ones; copies what it keeps, or raises and keeps none.

        They are numpy arrays, bf16 as uint16, or tensors on the GPU `device`.
        """

    def swap(self) -> None:
        """Let the staged version write from the next token on."""

    def score(self, sequences: Sequence[Ints]) -> list[Floats]:
        """Return log pi(ids[t] | ids[:t]) for t >= 1 of each sequence, at temperature 1."""


def check_device(device: str) -> None:
    """Refuse a device whose name is none. Whether it is there only the engine can tell."""
    if device and re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise ConfigError(
            f'[roles.generator].engine.device = "{device}": write "cpu", "cuda" or "cuda:1"'
        )


def make_engine(
    config: EngineConfig,
    policy: Policy,
    vocab_size: int,
    base: Path,
    work: Path,
    seed: int,
    around: Surroundings,
) -> Engine:
    """Return an engine of the configured kind, not started. `seed` draws for requests without.

    `base` is where [policy] looks for folders, `work` a folder of the engine's own.
    """
    if config.kind == "vllm" and config.vllm.own_process:
        from realnet.roles.generator.vllm.engine import VllmEngine

        return VllmEngine(config, policy, vocab_size, base, work, seed, around)
    from realnet.roles.generator.stepped import SteppedEngine

    def make() -> Core:
        return make_core(config, policy, vocab_size, base, seed, work)

    return SteppedEngine(make, around, config.block, takes_weights=config.kind != "fake")


def make_core(
    config: EngineConfig,
    policy: Policy,
    vocab_size: int,
    base: Path,
    seed: int,
    work: Path | None = None,
) -> Core:
    """Return the core of a stepped engine; arguments as for `make_engine`."""
    if config.kind == "fake":
        from realnet.roles.generator.fake_engine import FakeEngine

        return FakeEngine(config, policy.context, seed)
    if config.kind == "vllm":
        from realnet.roles.generator.vllm.core import VllmCore

        return VllmCore(config, policy, vocab_size, base, work or base, seed)
    from realnet.roles.generator.torch_engine import TorchEngine
    from realnet.roles.models.shape import shape_of

    return TorchEngine(shape_of(policy, vocab_size, base), policy, config, seed)
