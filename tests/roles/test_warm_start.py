"""The warm start and its optimizers: rates, orthogonal updates, and that it learns and repeats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from realnet.errors import ConfigError
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy, Task
from realnet.roles.tasks import Dataset
from realnet.roles.trainer.demonstrations import demonstrations
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import LearnerConfig, WarmStart
from realnet.roles.trainer.learner_optimizers import AdamW, orthogonal
from realnet.roles.trainer.learner_warm_start import rate

SHAPE: dict[str, int | float | bool] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
}


def learner(warm_start: WarmStart) -> Learner:
    policy = Policy(model="new:llama", tokenizer="new:chars", shape=SHAPE)
    return Learner(policy, LearnerConfig(warm_start=warm_start), Tokenizer.new_chars(), Path())


def state(of: Learner) -> dict[str, torch.Tensor]:
    return {n: w.detach().clone() for n, w in of.named}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_configs_are_read_without_torch() -> None:
    script = (
        "import sys; import realnet.roles.trainer.learner_config; print('torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "False"


def test_coarse_weights_do_not_lose_small_updates() -> None:
    weight = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    adam = AdamW([("w", weight)], 1e-4, (0.0, 0.0), 1e-8, 0.0)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        adam.collect()
        adam.update()
    assert weight.tolist() == pytest.approx([0.99] * 4, abs=4e-3)


def test_orthogonal_keeps_spaces_and_evens_singular_values() -> None:
    matrices = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    turned = orthogonal(matrices)
    values = torch.linalg.svdvals(turned)
    assert turned.shape == matrices.shape
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def test_rates_rise_hold_and_fall() -> None:
    config = WarmStart(steps=100, warm_up=10, hold=0.5)
    rates = [rate(step, config) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert 0.0 < rates[0] < 0.1
    assert set(rates[10:50]) == {1.0}
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)


def test_the_warm_start_learns_demonstrations_and_repeats() -> None:
    told: list[tuple[int, int, dict[str, float]]] = []

    def run() -> Learner:
        one = learner(WarmStart(steps=80, batch=16))
        one.warm_start(
            lambda k, _: (f"{k % 5}=", str(9 - k % 5) * 3), lambda *row: told.append(row)
        )
        return one

    first, again = run(), run()
    assert same(state(first), state(again))
    assert [(step, of) for step, of, _ in told[:80]] == [(s + 1, 80) for s in range(80)]
    assert told[79][2]["loss"] < 0.5 < told[0][2]["loss"]


def test_a_warm_start_of_no_steps_does_nothing() -> None:
    one = learner(WarmStart())
    before = state(one)
    one.warm_start(lambda k, p: pytest.fail("no demonstration is needed"), lambda *row: None)
    assert same(state(one), before)


def test_a_task_may_be_shown_and_never_asked(tmp_path: Path) -> None:
    reward = {"exact": 1.0}
    tasks = {
        "addz": Task(data="new:addz", reward=reward),
        "maxz": Task(data="new:maxz", reward=reward, use="demo"),
    }
    shown = [demonstrations(tasks, tmp_path)(k, 0.0)[0][0] for k in range(10)]
    assert shown.count("x") == 5
    dataset = Dataset(tasks, tmp_path)
    assert {dataset.train(k)[0] for k in range(50)} == {"addz"}


def test_a_task_that_is_only_shown_must_have_demonstrations() -> None:
    tasks = {
        "addz": Task(data="new:addz", reward={"exact": 1.0}),
        "file": Task(data="./x.jsonl", reward={"exact": 1.0}, use="demo"),
    }
    with pytest.raises(ConfigError, match=r"\[tasks.file\].*needs demonstrations"):
        demonstrations(tasks, Path())
