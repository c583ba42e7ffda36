"""Realnet's engine beside transformers' `generate` and vLLM's CPU build, and what a swap costs.

All write answers to the same 64 concurrent requests with ragged lengths (lognormal, sigma 0.8, cut
off at the demo's longest answer), with the demo's model in fp32 on one thread (its four heads of 16
as two of 32: vLLM's CPU kernels have none of 16). Useful tokens are those asked for: what
`generate` writes into a row that has ended does not count. Each program is a process of its own;
rounds go over all of them in turn, every other round backwards, and a ratio is of one round.

A swap: recomputed keys and values of 64 running requests. Its stall is the time that tokens wait;
tokens lost are what the engine would have written in that time.

Called by `rl.py`; runs itself in the other interpreters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import Keep

NUM_REQUESTS = 64
SIGMA = 0.8
MEAN = 28.0  # tokens; the longest answer is the demo's 56, twice that
WAVES = 4  # times the 64 requests, one after the other ended (arriving as slots become free)
CALLS = 5  # of each program in a round, each all of the requests
SWAPS = 200
NAMES = {"realnet": "realnet torch engine", "generate": "transformers generate", "vllm": "vLLM CPU"}


def measure(
    arguments: argparse.Namespace, console: Any, before: dict[str, Any], keep: Keep
) -> dict[str, Any]:
    """Run the rounds."""
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        work = Path(folder)
        _program(sys.executable, "prepare", work)
        pythons = {"realnet": Path(sys.executable), "generate": Path(sys.executable)}
        if arguments.vllm is not None:
            pythons["vllm"] = arguments.vllm
        else:
            console.print("vLLM is left out: --vllm names no Python that has it")
        rounds = list(before.get("rounds", []))
        for i in range(len(rounds), 1 if arguments.quick else arguments.rounds):
            found: dict[str, dict[str, float]] = {}
            for name in pythons if i % 2 == 0 else reversed(pythons):
                found[name] = _program(pythons[name], name, work)
                console.print(f"round {i + 1} {name}: {found[name]}", markup=False)
            rounds.append(found)
            keep({"rounds": rounds})
        swaps = _program(sys.executable, "swaps", work)
        console.print(f"swaps: {swaps}", markup=False)
    return {"rounds": rounds, "swaps": swaps}


def _program(python: str | Path, what: str, work: Path) -> dict[str, float]:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    ended = subprocess.run(
        [str(python), __file__, what, str(work)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{what}: {ended.stdout[-1500:]}{ended.stderr[-3000:]}")
    said: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return said


def figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """Return the flat figures."""
    rounds, swaps = measured.get("rounds", []), measured.get("swaps", {})

    def against(name: str) -> float | None:
        ratios = [
            r["realnet"]["tokens_per_s"] / r[name]["tokens_per_s"] for r in rounds if name in r
        ]
        return statistics.median(ratios) if ratios else None

    return {
        "engine_vs_generate": against("generate"),
        "engine_vs_vllm_cpu": against("vllm"),
        "swap_stall_ms_p50": swaps.get("p50_ms"),
        "swap_stall_ms_p99": swaps.get("p99_ms"),
    }


def lines(measured: dict[str, Any]) -> list[str]:
    """Return the tables in Markdown."""
    rounds, swaps = measured["rounds"], measured.get("swaps")
    out = [
        f"{NUM_REQUESTS} concurrent requests, lengths lognormal (mean {MEAN:g}, σ {SIGMA:g}, at "
        f"most 56), {WAVES} x {NUM_REQUESTS} requests, {CALLS} times a round, {len(rounds)} "
        "rounds; the demo's model (two heads of 32 for four of 16, which vLLM's CPU build does not "
        "have), fp32, one thread; median of rounds.",
        "",
        "| engine | useful tokens/s | of CPU time |",
        "|---|---|---|",
    ]
    for name, shown in NAMES.items():
        rows = [r[name] for r in rounds if name in r]
        if rows:
            wall = statistics.median(r["tokens_per_s"] for r in rows)
            cpu = statistics.median(r["tokens_per_cpu_s"] for r in rows)
            out.append(f"| {shown} | {wall:,.0f} | {cpu:,.0f} |")
    if not swaps:
        return out
    out += [
        "",
        f"A swap with 64 requests in flight (keys and values recomputed), {SWAPS} times: "
        f"{swaps['p50_ms']:.2f} ms at the median, {swaps['p99_ms']:.2f} ms at the 99th percentile, "
        f"{swaps['p50_tokens']:.0f} and {swaps['p99_tokens']:.0f} tokens that were not written "
        f'meanwhile; keys and values kept (`kv = "stale"`): {swaps["stale_p50_ms"]:.3f} ms, '
        f"{swaps['stale_p99_ms']:.3f} ms. Staging the weights beside it took "
        f"{swaps['stage_p50_ms']:.2f} ms.",
    ]
    return out


# ---------------------------------------------------------------- inside the other processes


def main() -> None:
    what, work = sys.argv[1], Path(sys.argv[2])
    programs = {
        "prepare": _prepare,
        "realnet": _realnet,
        "generate": _generate,
        "vllm": _vllm,
        "swaps": _swaps,
    }
    print(json.dumps(programs[what](work)))


def _prepare(work: Path) -> dict[str, float]:
    """Write the model as a Hugging Face folder, and the requests."""
    import numpy as np

    from realnet.roles.models.build import build_model, export_hf

    demo = _demo()
    model = build_model(demo.policy, demo.tokenizer, Path(), 0)
    export_hf(model, demo.tokenizer, work / "model")
    rng = np.random.default_rng(0)
    centre = np.log(MEAN) - SIGMA**2 / 2
    drawn = np.exp(centre + SIGMA * rng.standard_normal(NUM_REQUESTS * WAVES)).round()
    lengths = drawn.clip(1, demo.policy.max_tokens).astype(int).tolist()
    prompts = [demo.tokenizer.encode(demo.problem(k).prompt) for k in range(len(lengths))]
    text = json.dumps({"lengths": lengths, "prompts": prompts})
    (work / "requests.json").write_text(text, encoding="utf-8")
    return {}


def _demo() -> Any:
    """Return the demo with heads that vLLM's CPU kernels have: two of 32 for four of 16."""
    from demo_policy import read_demo

    shape = {**read_demo().policy.shape, "num_attention_heads": 2, "num_key_value_heads": 2}
    return read_demo(seed=0, shape=shape)


def _requests(work: Path) -> tuple[list[list[int]], list[int]]:
    read = json.loads((work / "requests.json").read_text(encoding="utf-8"))
    return read["prompts"], read["lengths"]


def _timed(write: Any, useful: int) -> dict[str, float]:
    """Time all calls but the first; the middle one counts."""
    write()
    took_s, cpu_s = [], []
    for _ in range(CALLS):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        write()
        took_s.append(time.perf_counter() - start_s)
        cpu_s.append(time.process_time() - start_cpu_s)
    return {
        "tokens_per_s": useful / statistics.median(took_s),
        "tokens_per_cpu_s": useful / statistics.median(cpu_s),
    }


def _engine(work: Path, **config: Any) -> Any:
    """Return (engine with weights, demo, arrays)."""
    import torch

    from realnet.roles.generator.engine import EngineConfig
    from realnet.roles.generator.torch_engine import TorchEngine
    from realnet.roles.messages import Version
    from realnet.roles.models.build import build_model, named_weights
    from realnet.roles.models.shape import shape_of

    torch.set_num_threads(1)
    demo = _demo()
    shape = shape_of(demo.policy, demo.tokenizer.vocab_size, Path())
    table = EngineConfig(slots=NUM_REQUESTS, device="cpu", **config)
    engine = TorchEngine(shape, demo.policy, table, 0)
    model = build_model(demo.policy, demo.tokenizer, Path(), 0)
    arrays = {name: weight.numpy() for name, weight in named_weights(model)}
    engine.stage(arrays, Version("policy", 0, 0))
    engine.swap()
    return engine, demo, arrays


def _realnet(work: Path) -> dict[str, float]:
    """Write all requests through 64 slots."""
    import numpy as np
    from demo_policy import write_all

    from realnet.roles.messages import Generate, Sampling

    engine, _, _ = _engine(work)
    prompts, lengths = _requests(work)
    nothing = np.zeros(0, np.int32)
    requests = [
        Generate("policy", np.array(p, np.int32), Sampling(max_tokens=n), nothing)
        for p, n in zip(prompts, lengths, strict=True)
    ]

    def write() -> None:
        answers = write_all(engine, requests)
        assert [len(a.ids) for a in answers] == lengths

    return _timed(write, sum(lengths))


def _generate(work: Path) -> dict[str, float]:
    """Write batches of 64; a batch lasts until its longest answer, as `generate` does it."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32).eval()
    prompts, lengths = _requests(work)

    @torch.inference_mode()
    def write() -> None:
        for start in range(0, len(prompts), NUM_REQUESTS):
            ids = torch.tensor(prompts[start : start + NUM_REQUESTS])
            longest = max(lengths[start : start + NUM_REQUESTS])
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=longest,
                min_new_tokens=longest,
                pad_token_id=0,
            )

    return _timed(write, sum(lengths))


def _vllm(work: Path) -> dict[str, float]:
    """Write all requests through vLLM's own batching."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    model = LLM(
        str(work / "model"),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=NUM_REQUESTS,
        max_model_len=80,
        block_size=32,
        kv_cache_memory_bytes=64 * 2**20,
        logprobs_mode="processed_logprobs",
    )
    prompts, lengths = _requests(work)
    asked = [{"prompt_token_ids": p} for p in prompts]
    params = [
        SamplingParams(max_tokens=n, ignore_eos=True, logprobs=0, detokenize=False) for n in lengths
    ]

    def write() -> None:
        done = model.generate(asked, params, use_tqdm=False)
        assert [len(d.outputs[0].token_ids) for d in done] == lengths

    return _timed(write, sum(lengths))


def _swaps(work: Path) -> dict[str, float]:
    """Swap again and again with 64 requests half way through their answers."""
    import numpy as np

    stall_ms, stage_ms, per_ms = _swap_often(work, "recompute")
    stale_ms, _, _ = _swap_often(work, "stale")
    p50, p99 = np.percentile(stall_ms, (50, 99))
    stale_p50, stale_p99 = np.percentile(stale_ms, (50, 99))
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p50_tokens": float(p50 * per_ms),
        "p99_tokens": float(p99 * per_ms),
        "stale_p50_ms": float(stale_p50),
        "stale_p99_ms": float(stale_p99),
        "stage_p50_ms": float(np.median(stage_ms)),
    }


def _swap_often(work: Path, kv: str) -> tuple[list[float], list[float], float]:
    """Return the stalls, the times of staging, and tokens written in a millisecond."""
    import numpy as np

    from realnet.roles.messages import Generate, Sampling, Version

    engine, _, arrays = _engine(work, kv=kv)
    prompts, _ = _requests(work)
    nothing = np.zeros(0, np.int32)
    stall_ms: list[float] = []
    stage_ms: list[float] = []
    writing_s, number = 0.0, 0
    while len(stall_ms) < SWAPS:
        for i in range(NUM_REQUESTS):
            request = Generate(
                "policy", np.array(prompts[i], np.int32), Sampling(max_tokens=56), nothing
            )
            engine.submit(i, request)
        for _ in range(6):
            start_s = time.perf_counter()
            engine.step(8)
            writing_s += time.perf_counter() - start_s
            assert engine.num_running == NUM_REQUESTS
            number += 1
            start_s = time.perf_counter()
            engine.stage(arrays, Version("policy", 0, number))
            staged_s = time.perf_counter()
            engine.swap()
            stall_ms.append(1e3 * (time.perf_counter() - staged_s))
            stage_ms.append(1e3 * (staged_s - start_s))
        while engine.num_running:
            engine.step(8)
    return stall_ms, stage_ms, 8 * NUM_REQUESTS * number / (1e3 * writing_s)


if __name__ == "__main__":
    main()
