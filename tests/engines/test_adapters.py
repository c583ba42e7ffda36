"""Adapters over a base reach an engine as merged weights do: the same bits, in mid-answer too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_versions import Published, adapters_for, filled, merged
from engine_rig import Around, Rig, model, request, version

from realnet.roles.messages import Announced, Version
from realnet.roles.models.build import named_weights
from realnet.roles.weights.intake import Intake
from realnet.roles.weights.receiver import Receiver

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
PROMPT = [5, 9, 7, 11, 6]


@pytest.fixture(autouse=True)
def real(engine: Rig) -> None:
    if engine.fake:
        pytest.skip("a version of the fake engine has no bytes")


async def load(engine: Rig, weights: Any) -> None:
    """Swap whole weights in, as merged publication brings them."""
    number = len(engine.models)
    manifest, room = filled(version(number), weights)
    engine.room.make(len(room))[:] = room
    await swap(engine, manifest)


async def swap(engine: Rig, manifest: Any) -> None:
    engine.models[len(engine.models)] = -1  # of no seed
    await engine.engine.stage(manifest, engine.room)
    await engine.engine.swap()


async def told(engine: Rig) -> tuple[list[int], list[np.ndarray]]:
    """What it writes without chance, and how it scores."""
    answer = await engine.answer(request(PROMPT, temperature=0.0, max_tokens=24))
    scored = await engine.engine.score([np.array(PROMPT + answer.tokens(), np.int32)])
    return answer.tokens(), [answer.logprobs(), *scored]


async def test_adapters_over_a_base_are_the_merged_version(engine: Rig, tmp_path: Path) -> None:
    base = {n: w.detach().clone() for n, w in named_weights(model(1))}
    published = Published(tmp_path, base)
    around: Any = Around()
    intake = Intake(around, Receiver(around, None, host="here"), host="here")
    for seed in (1, 2):
        adapters = adapters_for(base, seed, ["q_proj", "down_proj", "gate_proj"])
        await load(engine, merged(base, adapters, torch.float32))
        expected = await told(engine)
        await engine.load(2)  # something else between
        between = await told(engine)
        assert between[0] != expected[0]
        held = published.adapters(Version("policy", 0, len(engine.models)), adapters, "float32")
        begun = asyncio.Event()
        writing = asyncio.create_task(
            engine.answer(request(PROMPT, max_tokens=100, seed=3), begun.set)
        )
        await begun.wait()
        manifest = await intake.take(held, Announced(held, bases=(published.base,)), engine.room)
        await swap(engine, manifest)
        assert engine.engine.version == held.manifest.version
        assert len((await writing).tokens()) == 100
        found = await told(engine)  # alone, as before: a batch has sums of another order
        assert found[0] == expected[0]
        for one, other in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(one, other)
    await intake.close()
    around.close()
