"""`make bench-gpu`: every part of it goes on the CPU, and without a GPU it says that."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
PARTS = ["peak_tflops", "mfu", "step_tokens_per_s", "engine_tokens_per_s", "logp_max_diff"]
PARTS += ["copy_gb_per_s", "ipc_lend_s", "ipc_borrow_s", "ipc_copy_s", "ipc_copy_ratio"]
PARTS += ["nccl_gb_per_s"]


def bench(*told: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "bench/gpu.py"), *told],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_part_goes_on_the_cpu_and_nothing_is_written(tmp_path: Path) -> None:
    ended = bench("--pretend", "--rounds", "1", "--folder", str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = {
        name: float(value.replace(",", ""))
        for name, value in (
            line.split() for line in ended.stdout.splitlines() if line.startswith("gpu_")
        )
    }
    assert sorted(found) == sorted(f"gpu_{part}" for part in PARTS)
    assert found["gpu_logp_max_diff"] < 1e-4
    assert all(value > 0 for name, value in found.items() if name != "gpu_logp_max_diff")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    ended = bench("--folder", str(tmp_path))
    assert ended.returncode == 2
    assert "no GPU here: nothing was measured" in ended.stdout
    assert not list(tmp_path.iterdir())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("gpu")


def test_the_operations_of_a_pass_are_those_that_are_made(gpu: Any, tmp_path: Path) -> None:
    """All products but attention's, which torch counts as if it were not causal."""
    made = gpu.Bench(gpu.TINY, "cpu", 1, tmp_path)
    lengths = [5, 9, 20]
    rows = [(np.arange(n, 2 * n + 1), np.arange(1, n + 1)) for n in lengths]  # none begin alike
    with FlopCounterMode(display=False) as counter:
        made.learner.scorer.logprobs(rows).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if "attention" not in str(op))
    shape = made.learner.model.config
    wide = shape.num_attention_heads * shape.head_dim
    seen = 6.0 * shape.num_hidden_layers * wide * sum(n * n for n in lengths)
    norms = sum(w.numel() for n, w in made.learner.named if "norm" in n)
    wanted = gpu.needed_flops(made, lengths) - seen - 6.0 * norms * sum(lengths)
    assert products == wanted, counts


def test_a_part_that_fails_is_named_and_the_others_go_on(gpu: Any, tmp_path: Path) -> None:
    made = gpu.Bench(gpu.TINY, "cpu", 1, tmp_path)
    with made.part("peak"):
        raise torch.OutOfMemoryError("no room\n  at all")
    assert made.missing == {"peak": "OutOfMemoryError: no room at all"}
