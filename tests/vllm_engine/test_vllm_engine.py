"""What only vLLM has: processes that die, a prefix cache, ranks, parameters that others set."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from engine_rig import BOUND, POLICY, TOKENIZER, Answer, config_of, model, request, rig, version

from realnet.config import Bytes
from realnet.errors import ConfigError, RealnetError
from realnet.roles.generator.engine import EngineConfig, EngineDied
from realnet.roles.generator.vllm.config import VllmConfig
from realnet.roles.generator.vllm.model import check_vllm
from realnet.roles.models.build import export_hf
from realnet.roles.tables import Policy

pytestmark = pytest.mark.timeout(300)
LONG = [4 + i % 23 for i in range(70)]


def gone(pid: int) -> bool:
    try:
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True


async def test_one_engine_from_its_start_to_its_death(tmp_path: Path) -> None:
    """A folder with a misleading generation_config; shared prefills; damage; SIGKILL."""
    folder = tmp_path / "model"
    export_hf(model(1), TOKENIZER, folder)
    misleading = {"temperature": 0.3, "top_k": 2, "top_p": 0.5, "eos_token_id": [7, 9, 11]}
    (folder / "generation_config.json").write_text(json.dumps(misleading))
    async with rig(
        "vllm",
        tmp_path,
        policy=msgspec.structs.replace(POLICY, model=str(folder), shape={}, tokenizer="new:chars"),
    ) as made:
        engine: Any = made.engine
        await made.load(1)
        # Everything is possible, and 7, 9 and 11 end nothing.
        answers = await asyncio.gather(
            *(made.answer(request([4, 5], max_tokens=60, seed=n)) for n in range(6))
        )
        for answer in answers:
            assert len(answer.tokens()) == 60
            made.check(answer)
        written = {token for answer in answers for token in answer.tokens()}
        assert written & {7, 9, 11}
        await _shared_prefill(made, engine)
        await _damage(made, engine)
        await _death(made, engine)


async def _shared_prefill(made: Any, engine: Any) -> None:
    before = engine.cached_tokens
    await asyncio.gather(*(made.answer(request(LONG, max_tokens=4, seed=n)) for n in range(5)))
    assert engine.cached_tokens - before == 4 * 64  # two blocks of 32; the first one writes them
    await made.load(2)
    before = engine.cached_tokens
    made.check(await made.answer(request(LONG, max_tokens=4)))
    assert engine.cached_tokens == before  # nothing of the version before


async def _damage(made: Any, engine: Any) -> None:
    """One bit in the room: refused while the old version goes on; then the same one, whole."""
    manifest = made.manifest(1, len(made.models))
    made.room.view()[1000] ^= 1
    with pytest.raises(RealnetError, match="digest differs"):
        await engine.stage(manifest, made.room)
    made.check(await made.answer(request([4, 9], max_tokens=10)))
    await made.load(1)
    made.check(await made.answer(request([4, 9], max_tokens=10)))


async def _death(made: Any, engine: Any) -> None:
    begun = asyncio.Event()
    partial = Answer(request([4, 9, 5], max_tokens=120, seed=3))

    async def write() -> None:
        async for delta in engine.stream(partial.request):
            partial.add(delta)
            begun.set()

    writing = asyncio.create_task(write())
    await begun.wait()
    (process,) = engine._processes()
    loop = asyncio.get_running_loop()
    killed_s = loop.time()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="stays with those who asked"):
        await writing
    with pytest.raises(EngineDied):
        await made.running
    print(f"EngineDied {loop.time() - killed_s:.3f} s after SIGKILL")
    with pytest.raises(EngineDied):
        await made.engine.stream(request([4])).__anext__()
    made.check(partial)  # what was written stays valid
    rest = request([4, 9, 5], so_far=partial.tokens(), max_tokens=120, seed=3)
    async with rig("torch", Path()) as other:  # and another engine goes on after it
        await other.load(1)
        answer = await other.answer(rest)
        assert len(partial.tokens()) + len(answer.tokens()) == 120
        other.check(answer)


async def test_an_updated_engine_is_a_fresh_one(tmp_path: Path) -> None:
    """In bf16 too, where weights are cast; the bound is vLLM's own noise."""
    ids = np.arange(4, 50, dtype=np.int32)

    async def look(*seeds: int) -> tuple[list[int], np.ndarray[Any, Any]]:
        async with rig("vllm", tmp_path) as made:
            for seed in seeds:
                await made.load(seed)
            answer = await made.answer(request([4, 9], temperature=0.0, max_tokens=60))
            made.check(answer)
            (scores,) = await made.engine.score([ids])
            return answer.tokens(), scores

    (updated, updated_scores), (fresh, fresh_scores) = await look(1, 2), await look(2)
    assert updated == fresh
    assert np.array_equal(updated_scores, fresh_scores)


async def test_bf16_casts_are_explicit_and_within_their_bound(tmp_path: Path) -> None:
    ids = np.arange(4, 50, dtype=np.int32)
    policy = msgspec.structs.replace(POLICY, dtype="bf16")
    async with rig("vllm", tmp_path, policy=policy) as made, rig("torch", tmp_path) as exact:
        await exact.load(1)
        (wanted,) = await exact.engine.score([ids])
        found = []
        for number, dtype in enumerate(("float32", "bfloat16")):
            await made.engine.stage(made.manifest(1, number, dtype), made.room)
            await made.engine.swap()
            found += await made.engine.score([ids])
        assert np.array_equal(*found)  # cast there or here: the same bits
        gap = found[0] - wanted
        assert np.abs(gap).max() > BOUND  # it is bf16 that computed
        assert np.mean(np.expm1(gap) - gap) < 2e-2  # KL, of a model far from flat


def test_two_ranks_swap_a_version_and_die_with_whoever_started_them(tmp_path: Path) -> None:
    program = Path(__file__).with_name("tp_engine.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
    assert process.stdout is not None
    line = b""
    while not line.startswith(b"ready"):
        line = process.stdout.readline()
        assert line, (tmp_path / "log").read_text()[-3000:]
    pids = [int(word) for word in line.split()[1:]]
    names = {p: Path(f"/proc/{p}/cmdline").read_bytes() for p in pids}
    engines = [p for p in pids if b"resource_tracker" not in names[p]]
    assert len(engines) >= 3  # the core and two ranks
    process.kill()
    process.wait()
    process.stdout.close()
    while not all(gone(pid) for pid in engines):  # nothing tells us of a grandchild's end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("policy", "vllm", "text"),
    [
        ({}, {"tensor_parallel": 3}, "does not divide the model's num_attention_heads"),
        ({"context": 4096}, {"kv_cache": Bytes(2**20)}, "one request of .* takes 4194304"),
        ({"temperature": 3.0}, {}, "vLLM draws at 2.0 at most"),
    ],
)
def test_what_vllm_cannot_run_is_refused_before(
    policy: dict[str, Any], vllm: dict[str, Any], text: str
) -> None:
    config = config_of("vllm", vllm=VllmConfig(**vllm))
    with pytest.raises(ConfigError, match=text):
        check_vllm(config, msgspec.structs.replace(POLICY, **policy), Path())


async def test_a_model_that_vllm_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    export_hf(model(1), TOKENIZER, folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["NoSuchForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    policy = msgspec.structs.replace(POLICY, model=str(folder), shape={}, tokenizer="new:chars")
    with pytest.raises(ConfigError, match=r"does not know NoSuchForCausalLM"):
        check_vllm(config_of("vllm"), policy, Path())  # before anything starts
    with pytest.raises(ConfigError, match=r"cannot run .*model.*NoSuchForCausalLM"):
        async with rig("vllm", tmp_path, policy=policy):
            pass


async def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    from realnet.roles.generator.vllm.model import check_weights

    known = {"a": (2, 3), "b": (4,)}
    good = {"a": ("float32", (2, 3)), "b": ("float32", (4,))}
    check_weights(version(1), good, known, "bf16")
    for given, text in (
        ({"a": good["a"]}, "b is missing"),
        (good | {"c": ("float32", (1,))}, "c is not this model's"),
        (good | {"a": ("float32", (3, 3))}, r"a is \[3, 3\], here \[2, 3\]"),
        (good | {"a": ("bfloat16", (2, 3))}, "weights are bf16, the engine computes in fp32"),
    ):
        with pytest.raises(ConfigError, match=text):
            check_weights(version(1), given, known, "fp32")


@pytest.mark.parametrize("graphs", [False, True])
def test_areal_13_options_that_are_false_reach_vllm(graphs: bool, tmp_path: Path) -> None:
    """An option that is false must not be left out: vLLM would take its own default."""
    from vllm import AsyncEngineArgs

    from realnet.roles.generator.vllm.model import arguments

    config = EngineConfig(kind="vllm", vllm=VllmConfig(graphs=graphs))
    table = arguments(config, Policy(model="new:llama"), tmp_path, seed=1)
    made = AsyncEngineArgs(**table)
    assert (made.enforce_eager, table["enforce_eager"]) == (not graphs, not graphs)
    false = [name for name, value in table.items() if value is False]
    assert set(false) >= {"trust_remote_code"}
    assert all(getattr(made, name) is False for name in false)
    assert made.enable_prefix_caching is True  # vLLM's own default may be either
