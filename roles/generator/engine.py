"""What an engine is: the sync core that writes tokens, driven in the generator's compute thread.

Knows the protocol, its configuration and the kinds there are; knows nothing of torch, actors or
where weights come from. Called by the generator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from realnet.config import Config, doc
from realnet.errors import ConfigError
from realnet.roles.messages import Delta, Generate, Version
from realnet.roles.tables import Policy


class FakeConfig(Config):
    """`roles.generator.engine.fake`: how an engine without a model pretends to write."""

    rate: Annotated[float, doc("iterations a second; 0: as fast as possible", ge=0)] = 0.0
    lengths: Annotated[Literal["constant", "lognormal"], doc("of answers")] = "constant"
    mean: Annotated[float, doc("mean length of an answer, in tokens", ge=1)] = 32.0
    sigma: Annotated[float, doc("spread of the log of a lognormal length", ge=0)] = 0.8
    vocab: Annotated[int, doc("token ids are below this", ge=2)] = 32


class EngineConfig(Config):
    """`roles.generator.engine`: which engine, and how big."""

    kind: Annotated[Literal["torch", "fake"], doc("torch: realnet's own; fake: no model")] = "torch"
    slots: Annotated[int, doc("requests that run at once", ge=1)] = 64
    kv: Annotated[
        Literal["recompute", "stale"],
        doc("at a new version: recompute keys and values of what is running, or keep the old"),
    ] = "recompute"
    block: Annotated[int, doc("tokens a row between looks at the outside world", ge=1)] = 8
    flush: Annotated[int, doc("tokens of a request before a part of it is sent", ge=1)] = 32
    prefill: Annotated[int, doc("most prompt tokens in one forward pass", ge=1)] = 8192
    device: Annotated[str, doc('"cpu", "cuda", "cuda:1"; empty: a GPU if there is one')] = ""
    threads: Annotated[int, doc("of torch on the CPU", ge=1)] = 1
    fake: Annotated[FakeConfig, doc('of kind = "fake"')] = FakeConfig()


class Engine(Protocol):
    """Writes tokens for many requests at once.

    `submit`, `abort` and `poke` may be called from any thread; the rest from one thread at a time.
    A request that was submitted gets deltas from `step` until one with `finish`; their tokens are
    all of one version. Before the first `swap` requests wait.
    """

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

    def stage(self, weights: Mapping[str, np.ndarray[Any, Any]], version: Version) -> None:
        """Prepare weights beside the running ones; copies what it keeps, or raises and keeps none.

        bf16 comes as uint16.
        """

    def swap(self) -> None:
        """Let the staged version write from the next token on."""


def check_device(device: str) -> None:
    """Refuse a device whose name is none. Whether it is there only the engine can tell."""
    if device and re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise ConfigError(
            f'[roles.generator].engine.device = "{device}": write "cpu", "cuda" or "cuda:1"'
        )


def make_engine(
    config: EngineConfig, policy: Policy, vocab_size: int, base: Path, seed: int
) -> Engine:
    """Return an engine of the configured kind. `seed` draws for requests that bring no seed."""
    if config.kind == "fake":
        from realnet.roles.generator.fake_engine import FakeEngine

        return FakeEngine(config, policy.context, seed)
    from realnet.roles.generator.torch_engine import TorchEngine
    from realnet.roles.models.shape import shape_of

    return TorchEngine(shape_of(policy, vocab_size, base), policy, config, seed)
