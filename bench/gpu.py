"""`make bench-gpu`: the parts of realnet that need a GPU, measured where there is one.

    gpu.py [--rounds N] [--pretend] [--folder F]

gpu_peak_tflops          best of many products of two square matrices, in bf16: what 1.0 is below
gpu_mfu                  forward and backward pass over a packed batch, in operations that the model
                         needs (none for what is computed twice), by the peak
gpu_step_tokens_per_s    whole steps of the learner: scores, passes, optimizer
gpu_engine_tokens_per_s  the torch engine, 64 requests at once
gpu_logp_max_diff        the engine's log-probabilities beside the learner's, of one version
gpu_copy_gb_per_s        a copy on the GPU, in one process: bytes of the version a second
gpu_ipc_lend_s           a version copied into the lender's buffer, summed up, said to be there
gpu_ipc_borrow_s         opened by another process and checked
gpu_ipc_copy_s           copied there into memory of its own
gpu_ipc_copy_ratio       that copy beside bytes by bandwidth: 1.0 is ideal
gpu_nccl_gb_per_s        a version broadcast between two ranks, from host memory to host memory, its
                         digest checked; two GPUs, or two ranks on one where this NCCL allows it

Medians of rounds; a model of 0.8 billion weights in bf16, for GPUs of 40 GB and more. Into
runs/bench/gpu.json, with what machine it was. What cannot be measured is said, with why. Without a
GPU nothing is measured and nothing written, and the exit code is 2; `--pretend` goes the same way
on the CPU, with tiny sizes, to see that it goes: its numbers say nothing of a GPU.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from gpu_ends import took
from machine import about

from realnet.roles.generator.engine import EngineConfig, make_core
from realnet.roles.messages import (
    Generate,
    Group,
    Held,
    Location,
    Rollout,
    SampleKey,
    Sampling,
    Scored,
    Segment,
    Source,
    Span,
    TicketKey,
    Version,
)
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.weights import cuda_ipc, layout
from realnet.roles.weights.lending import SLOT_BYTES, Lender
from realnet.roles.weights.sources import this_host

V = Version("policy", 0, 1)
END_S = 300.0  # for another process
REQUESTS = 64
ENDS = Path(__file__).with_name("gpu_ends.py")


class Sizes(NamedTuple):
    """Of what is measured."""

    square: int
    shape: dict[str, int | float | bool]
    answers: int
    tokens: int  # of an answer
    micro_tokens: int
    written: int  # tokens of each of the engine's requests
    mib: int  # of what is broadcast


GPU = Sizes(
    8192,
    {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 6144,
    },
    *(64, 1000, 8192, 256, 1024),
)
TINY = Sizes(
    128,
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    },
    *(4, 20, 64, 8, 8),
)


class Bench:
    """One device, one model, and what was found."""

    def __init__(self, sizes: Sizes, device: str, rounds: int, folder: Path) -> None:
        self.sizes, self.device, self.rounds, self.folder = sizes, device, rounds, folder
        self.found: dict[str, float] = {}
        self.missing: dict[str, str] = {}
        dtype = "bf16" if device == "cuda" else "fp32"
        self.policy = Policy(
            model="new:qwen3",
            tokenizer="new:chars",
            shape=sizes.shape,
            dtype=dtype,
            context=32 + max(sizes.tokens, sizes.written),
            max_tokens=max(sizes.tokens, sizes.written),
        )
        self.tokenizer = Tokenizer.new_chars()
        config = LearnerConfig(device=device, micro_tokens=sizes.micro_tokens)  # type: ignore[arg-type]
        self.learner = Learner(self.policy, config, self.tokenizer, Path())

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def median(self, work: Callable[[], Any]) -> float:
        """Return the median seconds of some rounds, after one that does not count."""

        def one() -> None:
            work()
            self.finish()

        one()
        return statistics.median(took(one) for _ in range(self.rounds))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that fails is said, and the others go on."""
        try:
            yield
        except Exception as error:  # of a device: whatever it raises
            self.missing[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]


# ---------------------------------------------------------------- trainer


def measure_peak(bench: Bench) -> None:
    size, dtype = bench.sizes.square, torch.bfloat16 if bench.device == "cuda" else torch.float32
    a = torch.randn(size, size, device=bench.device, dtype=dtype)
    best_s = min(bench.median(lambda: a @ a) for _ in range(5))
    bench.found["gpu_peak_tflops"] = 2 * size**3 / best_s / 1e12


def measure_mfu(bench: Bench) -> None:
    sizes, scorer = bench.sizes, bench.learner.scorer
    assert scorer.packed
    draw = np.random.default_rng(0)
    low, high = sizes.tokens // 2, sizes.tokens
    lengths = draw.integers(low, high + 1, sizes.answers).tolist()
    # what rows share is run once: here that is their first token at most, one in a thousand
    rows = [(draw.integers(4, 30, n + 1), np.arange(1, n + 1)) for n in lengths]

    def passes() -> None:
        for part in scorer.parts(rows):
            scorer.logprobs([rows[i] for i in part]).sum().backward()  # type: ignore[no-untyped-call]
        for _, weight in bench.learner.named:
            weight.grad = None

    seconds = bench.median(passes)
    rate = needed_flops(bench, lengths) / seconds / 1e12
    bench.found["gpu_mfu"] = rate / bench.found["gpu_peak_tflops"]
    print(f"attention by {scorer.attention}; {sum(lengths)} tokens in {seconds:.3f} s")


def needed_flops(bench: Bench, lengths: list[int]) -> float:
    """Return the operations of a forward and a backward pass over sequences of which so many tokens
    are read, each with a logit: six a weight and token, and those of causal attention. Embeddings
    are looked up; where the head has the same weights, they are the head's."""
    config = bench.learner.model.config
    weights = sum(w.numel() for _, w in bench.learner.named)
    if not config.tie_word_embeddings:
        weights -= config.vocab_size * config.hidden_size
    wide = config.num_attention_heads * config.head_dim
    seen = 6.0 * config.num_hidden_layers * wide * sum(n * n for n in lengths)
    return 6.0 * weights * sum(lengths) + seen


def measure_step(bench: Bench) -> None:
    groups, tokens = _answers(bench)
    step = bench.median(lambda: bench.learner.step(groups, V, lambda version: 0))
    bench.found["gpu_step_tokens_per_s"] = tokens / step


def _answers(bench: Bench) -> tuple[list[Group], int]:
    draw, groups, tokens = np.random.default_rng(1), [], 0
    for ticket in range(max(1, bench.sizes.answers // 4)):
        members = []
        for sample in range(4):
            ids = draw.integers(4, 30, bench.sizes.tokens).astype(np.int32)
            logprobs = np.full(len(ids), -3.4, np.float32)
            spans = (Span(V, len(ids)),)
            asked = Segment("prompt", ids[:4], np.zeros(0, np.float32))
            segments = (asked, Segment("model", ids, logprobs, spans, learn=True))
            key = SampleKey(TicketKey("policy", ticket), sample)
            rollout = Rollout(key, "task", "", "", "", segments, "stop")
            members.append(Scored(rollout, float(sample % 2)))
            tokens += 4 + len(ids)
        groups.append(Group(TicketKey("policy", ticket), tuple(members)))
    return groups, tokens


# ---------------------------------------------------------------- engine


def measure_engine(bench: Bench) -> None:
    config = EngineConfig(slots=REQUESTS, device=bench.device)
    core = make_core(config, bench.policy, bench.tokenizer.vocab_size, Path(), 0)
    core.stage(dict(_there(bench)), V)
    core.swap()
    draw, written = np.random.default_rng(2), bench.sizes.written
    count = 0

    def write() -> None:
        nonlocal count
        for _ in range(REQUESTS):
            ids = draw.integers(4, 30, 16).astype(np.int32)
            count += 1
            sampling = Sampling(max_tokens=written)
            core.submit(count, Generate("policy", ids, sampling, np.zeros(0, np.int32)))
        while core.num_running or core.num_waiting:
            core.step(32)

    bench.found["gpu_engine_tokens_per_s"] = REQUESTS * written / bench.median(write)
    rows = [draw.integers(4, 30, n) for n in (9, 17, 30)]
    mine = bench.learner.score([(ids, np.arange(1, len(ids))) for ids in rows], 1.0)
    scored = core.score([ids.astype(np.int32) for ids in rows])
    apart = [np.abs(a - b).max() for a, b in zip(scored, mine, strict=True)]
    bench.found["gpu_logp_max_diff"] = float(max(apart))


def _there(bench: Bench) -> Iterator[tuple[str, Any]]:
    """The learner's weights as an engine takes them: tensors."""
    for name, weight in bench.learner.live():
        yield name, weight.detach()


# ---------------------------------------------------------------- cuda_ipc


def measure_ipc(bench: Bench, work: Path) -> None:
    weights = [(n, w.detach()) for n, w in bench.learner.live()]
    items = [(n, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for n, w in weights]
    manifest = layout(V, items)
    a = torch.empty(manifest.num_bytes, dtype=torch.uint8, device=bench.device)
    b = torch.empty_like(a)
    ideal_s = bench.median(lambda: b.copy_(a))
    if bench.device == "cuda":
        device: Any = cuda_ipc.device(cuda_ipc.uuid_of(bench.learner.device))
    else:
        from pretend_gpu import PretendDevice

        device = PretendDevice(work)
    guard = work / "guard"
    guard.write_bytes(bytes(SLOT_BYTES))
    lender = Lender(device, this_host(), str(guard))
    lent: list[Source] = []

    def lend() -> None:
        source = lender.offer(manifest, weights)
        assert source is not None
        lent.append(source)

    bench.found["gpu_copy_gb_per_s"] = manifest.num_bytes / ideal_s / 1e9
    bench.found["gpu_ipc_lend_s"] = bench.median(lend)
    held = msgspec.json.encode(Held(manifest, Location("", 0, 0), (lent[-1],))).decode()
    told = [device.uuid, held, msgspec.json.encode(lent[-1]).decode(), str(bench.rounds + 1)]
    said = ended(begun("borrow", *told, *([] if bench.device == "cuda" else [str(work)])))
    bench.found["gpu_ipc_borrow_s"] = statistics.median(said["borrow_s"][1:])
    bench.found["gpu_ipc_copy_s"] = statistics.median(said["copy_s"][1:])
    bench.found["gpu_ipc_copy_ratio"] = bench.found["gpu_ipc_copy_s"] / ideal_s
    lender.close()


# ---------------------------------------------------------------- nccl


def measure_nccl(bench: Bench, work: Path) -> None:
    backend = "nccl" if bench.device == "cuda" else "gloo"
    told = [backend, str(work / "place"), str(bench.sizes.mib), str(bench.rounds + 1)]
    ends = [begun(what, *told, rank=rank) for rank, what in enumerate(("send", "receive"))]
    try:
        sent, received = (ended(end) for end in ends)
    finally:
        for end in ends:
            end.kill()
    if not received["equal"]:
        raise RuntimeError("what came is not what was sent")
    taken_s = statistics.median(received["receive_s"][1:])
    bench.found["gpu_nccl_gb_per_s"] = sent["bytes"] / taken_s / 1e9


def begun(what: str, *told: str, rank: int = 0) -> subprocess.Popen[str]:
    """Start one of the other processes; `rank` chooses its GPU, if there are several."""
    environment = dict(os.environ)
    if torch.cuda.is_available() and what != "borrow":
        if torch.cuda.device_count() > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            names = seen.split(",") if seen else [str(n) for n in range(torch.cuda.device_count())]
            environment["CUDA_VISIBLE_DEVICES"] = names[rank]
        else:
            environment["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"  # known from NCCL 2.30 on
    return subprocess.Popen(
        [sys.executable, str(ENDS), what, *told],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a process found. Raises RuntimeError with its last line."""
    try:
        out, errors = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError(f"no answer within {END_S:g} s") from None
    if process.returncode:
        last = [line for line in errors.splitlines() if line.strip()] or [f"{process.returncode}"]
        raise RuntimeError(last[-1])
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


# ---------------------------------------------------------------- all of it


def measured(bench: Bench) -> None:
    """Measure every part; what fails is kept with why."""
    with tempfile.TemporaryDirectory(prefix="realnet-gpu-") as folder:
        work = Path(folder)
        with bench.part("peak"):
            measure_peak(bench)
        with bench.part("mfu"):
            measure_mfu(bench)
        with bench.part("engine"):
            measure_engine(bench)
        with bench.part("cuda_ipc"):
            measure_ipc(bench, work)
        with bench.part("step"):
            measure_step(bench)
        with bench.part("nccl"):
            measure_nccl(bench, work)


def gpu_name() -> str:
    properties = torch.cuda.get_device_properties(0)
    nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return (
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB, "
        f"CUDA {torch.version.cuda}, NCCL {nccl}"
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pretend", action="store_true", help="on the CPU: that it goes")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "runs/bench")
    arguments = parser.parse_args()
    if not arguments.pretend and not torch.cuda.is_available():
        print("no GPU here: nothing was measured, and nothing is written (--pretend: on the CPU)")
        return 2
    device, sizes = ("cpu", TINY) if arguments.pretend else ("cuda", GPU)
    begun_s = time.perf_counter()
    bench = Bench(sizes, device, arguments.rounds, arguments.folder)
    measured(bench)
    for name, value in bench.found.items():
        print(f"{name:<26} {value:,.4g}")
    for name, why in bench.missing.items():
        print(f"NOT MEASURED: {name}: {why}")
    print(f"{time.perf_counter() - begun_s:.0f} s")
    if arguments.pretend:
        print("pretended: on the CPU, nothing is written")
    else:
        said = about() | {"gpu": gpu_name()}
        arguments.folder.mkdir(parents=True, exist_ok=True)
        kept = bench.found | {"about": said, "not_measured": bench.missing}
        path = arguments.folder / "gpu.json"
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"{said['gpu']}; {path}")
    # Whether two ranks may share one GPU is for NCCL to say.
    allowed = {"nccl"} if device == "cuda" and torch.cuda.device_count() == 1 else set()
    return 1 if bench.missing.keys() - allowed else 0


if __name__ == "__main__":
    sys.exit(main())
