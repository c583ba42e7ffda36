"""A swap of the vLLM engine whose worker fails half-way. The worker is pretended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_rig import POLICY, VOCAB, Around, config_of, version

from realnet.roles.generator.engine import EngineDied
from realnet.roles.generator.vllm.engine import VllmEngine


class Worker:
    """vLLM's core: says what it was told; its first `failures` loads break off in the middle."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.told: list[str] = []
        self.loaded: list[str] = []

    async def __call__(self, method: str, *args: Any, **keywords: Any) -> None:
        call = args[0] if method == "collective_rpc_async" else method
        self.told.append(call)
        if call == "update_weights":
            self.loaded.append(keywords["kwargs"]["update_info"]["version"])
            if len(self.loaded) <= self.failures:
                raise RuntimeError("layer 3 did not load")


def engine(failures: int, monkeypatch: pytest.MonkeyPatch) -> tuple[VllmEngine, Worker]:
    made = VllmEngine(config_of("vllm"), POLICY, VOCAB, Path(), Path(), 0, Around())
    worker = Worker(failures)
    monkeypatch.setattr(made, "_core", worker)  # workers are called through it
    made._version = version(0)
    made._staged = version(1)
    return made, worker


async def test_a_load_that_breaks_off_is_done_again_whole_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, worker = engine(1, monkeypatch)
    await made.swap()
    assert made.version == version(1)
    whole = ["start_weight_update", "update_weights", "finish_weight_update"]
    assert worker.told == [
        *("pause_scheduler_async", *whole[:2], *whole),
        *("set_weight_version_async", "resume_scheduler_async"),
    ]
    made._staged = version(2)
    await made.swap()
    assert made.version == version(2)
    assert worker.loaded == [str(version(n)) for n in (1, 1, 2)]


async def test_an_engine_that_cannot_load_never_writes_with_a_mixture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, worker = engine(2, monkeypatch)
    with pytest.raises(EngineDied, match=r"could not load .*v0\.1: layer 3 did not load"):
        await made.swap()
    assert made.version == version(0), "it did not advance"
    assert "resume_scheduler_async" not in worker.told, "and stays paused until it is closed"
    with pytest.raises(EngineDied):
        await made.run()
