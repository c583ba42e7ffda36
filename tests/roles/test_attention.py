"""Attention over packed rows: each kind gives what sdpa gives, or is refused where it cannot be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from learner_scenarios import NOW, SHAPE, Stage, age, batch
from torch.nn.attention import flex_attention as flex_module

from realnet.errors import ConfigError
from realnet.roles.algorithms.contradictions import Contradiction
from realnet.roles.models import attention_kinds
from realnet.roles.models.attention_kinds import choose
from realnet.roles.tables import Policy
from realnet.roles.trainer import learner_config, learner_pass
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import LearnerConfig, check_attention

GPU = torch.cuda.is_available()


def plain(**policy: Any) -> Learner:
    shape = {**SHAPE, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"minibatches": 1, "grad_clip": 0.0}
    return Stage(0, 1, configs=[config], policy={"shape": shape, **policy}).plain()


def rows(*lengths: int) -> list[Any]:
    rng = np.random.default_rng(len(lengths))
    return [(rng.integers(4, 30, n), np.arange(1, n)) for n in lengths]


def gradient(made: Learner) -> dict[str, torch.Tensor]:
    """The gradient of one step: forward, backward and micro-batches as in training."""
    caught: dict[str, torch.Tensor] = {}

    def catch() -> None:
        caught.update({n: w.grad.clone() for n, w in made.named if w.grad is not None})

    made.optimizer.update = catch  # type: ignore[method-assign]
    made.step(batch(), NOW, age)
    return caught


def by_sequence(q: Any, k: Any, v: Any, starts: Any, longest: int, scale: Any) -> torch.Tensor:
    """What a kernel for rows of sequences computes, one sequence after the other."""
    borders = starts.tolist()
    assert starts.dtype is torch.int32
    assert max(b - a for a, b in itertools.pairwise(borders)) == longest
    outputs = []
    for a, b in itertools.pairwise(borders):
        one = [row[a:b].transpose(0, 1)[None] for row in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(
            *one, is_causal=True, scale=scale, enable_gqa=True
        )
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a kind on the CPU, where users cannot have it: flex unfused, flash by a stand-in."""

    def use(kind: str) -> None:
        monkeypatch.setattr(learner_pass, "choose", lambda asked, device, bf16: kind)
        monkeypatch.setattr(attention_kinds, "flash_function", lambda: by_sequence)
        # torch refuses backward passes on CPUs, where only the unfused ones are there.
        monkeypatch.setattr(flex_module, "_validate_device", lambda q, k, v: None)
        monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)

    return use


@pytest.mark.parametrize("kind", ["flex", "flash"])
@pytest.mark.parametrize("lengths", [(7,), (2, 9, 3, 3), (150, 4, 61)])
def test_each_kind_scores_as_sdpa_does(
    kind: str, lengths: tuple[int, ...], anywhere: Callable[[str], None]
) -> None:
    made = plain(model="new:qwen2")
    assert made.scorer.attention == "sdpa"
    expected = made.scorer.logprobs(rows(*lengths))
    anywhere(kind)
    other = made._scorer(made.model)
    assert (other.attention, other.packed) == (kind, True)
    torch.testing.assert_close(other.logprobs(rows(*lengths)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["flex", "flash"])
def test_each_kind_has_the_gradient_of_sdpa(kind: str, anywhere: Callable[[str], None]) -> None:
    expected = gradient(plain())
    anywhere(kind)
    made = plain()
    assert made.scorer.attention == kind
    found = gradient(made)
    assert found.keys() == expected.keys()
    assert max(w.abs().max() for w in expected.values()) > 1e-3
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not GPU, reason="flex and flash are for GPUs, and there is none here")
@pytest.mark.parametrize("kind", ["flex", "flash"])
def test_each_kind_on_a_gpu_is_sdpa_but_for_rounding(kind: str) -> None:
    shape = {**SHAPE, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    found = []
    for attention in ("sdpa", kind):
        config = {"device": "cuda", "attention": attention}
        made = Stage(0, 1, configs=[config], policy={"shape": shape, "dtype": "bf16"}).plain()
        assert made.scorer.attention == attention
        logp = made.scorer.logprobs(rows(150, 4, 61))
        logp.sum().backward()  # type: ignore[no-untyped-call]
        found.append((logp.detach(), made.named[3][1].grad))
    (one, grad), (other, its) = found
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)
    torch.testing.assert_close(grad, its, rtol=0.1, atol=0.1)


def test_auto_is_sdpa_on_a_cpu_and_flash_where_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose("auto", "cpu", bf16=True) == "sdpa"
    monkeypatch.setattr(attention_kinds, "flash_function", lambda: by_sequence)
    assert choose("auto", "cuda", bf16=True) == "flash"
    assert choose("auto", "cuda", bf16=False) == "sdpa"
    assert choose("flex", "cuda", bf16=False) == "flex"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert choose("auto", "cuda", bf16=True) == "sdpa"
    with pytest.raises(ConfigError, match=r"newer GPUs than Tesla T4 \(compute capability 7\.5\)"):
        choose("flash", "cuda", bf16=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert choose("auto", "cuda", bf16=True) == "flash"
    monkeypatch.setattr(attention_kinds, "flash_function", lambda: None)
    assert choose("auto", "cuda", bf16=True) == "sdpa"


def test_what_cannot_run_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r'attention = "flex" needs a GPU'):
        choose("flex", "cpu", bf16=False)
    with pytest.raises(ConfigError, match="computes in bf16, and this model in fp32"):
        choose("flash", "cuda", bf16=False)
    monkeypatch.setattr(attention_kinds, "flash_function", lambda: None)
    with pytest.raises(ConfigError, match="neither flash-attn is installed nor has this torch"):
        choose("flash", "cuda", bf16=True)
    with pytest.raises(ConfigError, match=r'attention = "flash" needs a GPU'):
        Stage(0, 1, configs=[{"attention": "flash", "device": "cpu"}]).plain()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"attention": "flex", "device": "cpu"}, 'needs a GPU, and device = "cpu"'),
        ({"attention": "flex", "rows": "padded"}, 'is for packed rows, and rows = "padded"'),
        ({"attention": "flash"}, r"computes in bf16: set \[policy\]\.dtype"),
        ({"attention": "flash", "autocast": "bf16"}, "pip install flash-attn"),
    ],
)
def test_a_table_is_refused_before_anything_starts(
    table: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_config, "_has_flash", lambda: False)
    config = msgspec.convert(table, LearnerConfig)
    with pytest.raises((ConfigError, Contradiction), match=says):
        check_attention(config, Policy(model="new:llama"))


def test_a_model_that_cannot_be_packed_is_not_scored_by_another_kind(
    anywhere: Callable[[str], None],
) -> None:
    anywhere("flex")
    made = plain()
    with pytest.raises(ConfigError, match="is for packed rows, and those of LlamaForCausalLM"):
        learner_pass.Scorer(made.model, 1.0, "padded", attention="flex")
    check_attention(LearnerConfig(), Policy(model="new:llama"))
