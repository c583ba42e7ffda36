"""Blocks on the kernels in C: what torch's operations give, forwards and backwards, or not used."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realnet.compiled import SWITCH
from realnet.errors import RealnetError
from realnet.roles.models.native import built as built_module
from realnet.roles.models.native import library
from realnet.roles.models.native.block import use_native_blocks, why_plain
from realnet.roles.models.native.built import build, path_here
from realnet.roles.models.native.library import Kernels, kernels
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.learner_part import Row
from realnet.roles.trainer.learner_pass import Scorer

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}


pytestmark = pytest.mark.usefixtures("native_kernels")


def learner(family: str = "llama", config: dict[str, Any] | None = None, **shape: int) -> Learner:
    policy = Policy(model=f"new:{family}", tokenizer="new:chars", shape={**SHAPE, **shape})
    made = Learner(policy, LearnerConfig(**(config or {})), Tokenizer.new_chars(), Path())
    with torch.no_grad():  # as a trained one: norms and biases are not 1 and 0
        for name, weight in made.named:
            if "norm" in name or "bias" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=made.rng))
    return made


def plain(of: Learner, dtype: torch.dtype = torch.float32) -> Scorer:
    """Return the same model on torch's operations."""
    model = copy.deepcopy(of.model).to(dtype)
    for module in model.modules():
        if type(module).__name__.startswith("Native"):
            module.__class__ = type(module).__mro__[1]
    return Scorer(model, 1.0, "packed")


def rows(seed: int = 0, answers: int = 5) -> list[Row]:
    """Return answers to three prompts, dealt in turn, and some rows that share nothing."""
    rng = np.random.default_rng(seed)
    asked = [rng.integers(4, 30, n) for n in (1, 14, 33)]
    found: list[Row] = []
    for _ in range(answers):
        for prompt in asked:
            answer = rng.integers(4, 30, rng.integers(1, 60))
            ids = np.concatenate([prompt, answer])
            found.append((ids, np.arange(len(prompt), len(ids))))
    found.append((rng.integers(4, 30, 150), np.array([7, 8, 149])))
    return [*found, (rng.integers(4, 30, 2), np.array([1]))]


def gradients(scorer: Scorer, of: list[Row]) -> dict[str, torch.Tensor]:
    scorer.model.zero_grad()
    logp = scorer.logprobs(of)
    weights = torch.linspace(-1, 1, len(logp), dtype=logp.dtype)
    (logp * weights).sum().backward()  # type: ignore[no-untyped-call]
    return {n: w.grad.double() for n, w in scorer.model.named_parameters() if w.grad is not None}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two sets of gradients, in shares of each one's largest."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max()) for n in b)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"num_attention_heads": 2, "num_key_value_heads": 1}),  # heads of 32
        ("qwen2", {"head_dim": 64, "num_key_value_heads": 2, "intermediate_size": 16}),
        ("qwen2", {"head_dim": 48, "num_attention_heads": 1, "num_key_value_heads": 1}),
    ],
)
def test_a_native_model_is_as_near_to_fp64_as_a_plain_one(family: str, shape: Any) -> None:
    native = learner(family, **shape)
    assert type(native.model.model.layers[0]).__name__.startswith("Native")
    exact, near = plain(native, torch.float64), plain(native)
    of = rows()
    expected, found, by_torch = (s.logprobs(of).double() for s in (exact, native.scorer, near))
    ours = float((found - expected).detach().abs().max())
    theirs = float((by_torch - expected).detach().abs().max())
    assert ours < max(2 * theirs, 2e-5)
    truth = gradients(exact, of)
    assert apart(gradients(native.scorer, of), truth) < max(
        2 * apart(gradients(near, of), truth), 1e-5
    )


def test_the_same_rows_give_the_same_bits() -> None:
    one, other = learner(), learner()
    a, b = gradients(one.scorer, rows()), gradients(other.scorer, rows())
    assert all(torch.equal(a[name], b[name]) for name in a)
    gradients(one.scorer, rows(seed=1))
    again = gradients(one.scorer, rows())
    assert all(torch.equal(a[name], again[name]) for name in a)


def test_a_copy_runs_its_own_weights_and_a_padded_pass_runs_torch() -> None:
    native = learner()
    other = copy.deepcopy(native.model)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(2)
    of = rows()
    here, there = native.scorer.score(of), Scorer(other, 1.0, "packed").score(of)
    assert not torch.allclose(torch.cat(here), torch.cat(there), atol=1e-2)
    padded = Scorer(native.model, 1.0, "padded").score(of)
    torch.testing.assert_close(torch.cat(padded), torch.cat(here), atol=1e-5, rtol=1e-4)


def test_what_is_no_number_shows() -> None:
    for bad in (float("nan"), float("inf")):
        native = learner()
        with torch.no_grad():
            native.model.model.layers[0].self_attn.v_proj.weight[0, 0] = bad
        assert not torch.isfinite(native.scorer.logprobs(rows())).all()


def test_large_numbers_neither_overflow_nor_wrap() -> None:
    run = kernels()
    assert run is not None
    gate = torch.tensor([-1e30, -200.0, -88.5, -87.0, -30.0, -1.0, -1e-9, 0.0] * 2)
    gate[8:] *= -1
    both = torch.cat([gate, torch.ones(16)])[None]
    out, back = run.swiglu(both), run.swiglu_backward(both, torch.ones(1, 16))
    exact = gate.double().requires_grad_()
    expected = torch.nn.functional.silu(exact)
    expected.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(out[0], expected.detach().float(), atol=1e-30, rtol=1e-6)
    assert exact.grad is not None
    torch.testing.assert_close(back[0, :16], exact.grad.float(), atol=1e-30, rtol=1e-5)
    # scores far apart: one key takes all, and the others nothing
    qkv = torch.zeros(3, 48)
    qkv[:, 0], qkv[:, 16], qkv[:, 32] = 1e4, torch.tensor([1.0, -1.0, 0.5]), torch.arange(3.0)
    seen, peak = run.attend(qkv, torch.tensor([[0, 0, 0, 3]], dtype=torch.int32), 3, (1, 1))
    assert seen[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert peak[:, 0].tolist() == [2500.0] * 3


# ---------------------------------------------------------------- where it is not used


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: learner(num_attention_heads=8, num_key_value_heads=8), "not multiples of 16"),
        (lambda: learner("qwen3"), "a Qwen3DecoderLayer is not among"),
        (lambda: learner(config={"activations": "recompute"}), "a RecomputingLlamaDecoderLayer is"),
        (lambda: learner(config={"autocast": "bf16"}), ""),
        (lambda: learner(config={"rows": "padded"}), ""),
        (lambda: learner(config={"threads": 2}), ""),
    ],
)
def test_other_models_and_settings_run_torch(made: Any, why: str) -> None:
    before = torch.get_num_threads()
    one = made()
    torch.set_num_threads(before)
    blocks = one.model.model.layers
    assert not any(type(block).__name__.startswith("Native") for block in blocks)
    assert why in why_plain(one.model)
    assert torch.isfinite(one.scorer.logprobs(rows())).all()


def test_adapters_doubles_and_odd_biases_are_seen() -> None:
    model = learner("qwen2").model
    for block in model.model.layers:
        block.__class__ = type(block).__mro__[1]
    assert why_plain(model) == ""
    assert why_plain(copy.deepcopy(model).double()) == "it is not fp32 on the CPU"
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 48, bias=True)
    assert why_plain(model) == "its blocks have adapters, or biases"
    assert why_plain(torch.nn.Linear(2, 2)) == "it has no blocks"


def test_a_native_model_that_is_made_double_runs_torch() -> None:
    native = learner()
    native.model.double()
    assert native.scorer.logprobs(rows()).dtype is torch.float64


def test_compiled_code_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert kernels() is None
    assert why_plain(learner().model).startswith("the kernels were not built")
    kernels.cache_clear()
    monkeypatch.setenv(SWITCH, "1")
    assert kernels() is not None
    kernels.cache_clear()
    monkeypatch.setattr(library, "path_here", lambda: Path("/nowhere/kernels.so"))
    with pytest.raises(RealnetError, match=r"REALNET_COMPILED=1, and /nowhere.*: make kernels"):
        kernels()


def test_a_library_is_of_one_kind_of_cpu_and_one_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = path_here(tmp_path)
    monkeypatch.setattr(built_module, "_cpu", lambda: "flags: of another")
    there = path_here(tmp_path)
    assert here != there
    changed = tmp_path / "kernels.c"
    changed.write_bytes(built_module.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(built_module, "SOURCE", changed)
    assert path_here(tmp_path) not in (here, there)


def test_what_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build(tmp_path)[1] == "there is no C compiler (no-such-compiler)"
    monkeypatch.delenv("CC")
    broken = tmp_path / "kernels.c"
    broken.write_text("int main( {", encoding="utf-8")
    monkeypatch.setattr(built_module, "SOURCE", broken)
    path, why = build(tmp_path / "out")
    assert "the C compiler failed" in why
    assert "error" in why
    assert not path.exists()
    assert list((tmp_path / "out").iterdir()) == []
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(b"not a library")
    with pytest.raises(OSError, match=r"wrong\.so"):
        Kernels(wrong)


@pytest.mark.parametrize("kept", [0, 1000, -20_000, -100, -1])
def test_a_library_that_was_cut_off_is_not_loaded_but_built_again(
    kept: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, why = build(tmp_path)
    assert why == ""
    whole = path.read_bytes()
    path.unlink()  # not cut under those who have it loaded
    path.write_bytes(whole[:kept])
    monkeypatch.setattr(library, "path_here", lambda: path)
    assert kernels() is None
    kernels.cache_clear()
    monkeypatch.setenv(SWITCH, "1")
    with pytest.raises(RealnetError, match="not as it was built: make kernels"):
        kernels()
    assert build(tmp_path) == (path, "")
    assert path.read_bytes() == whole
    assert kernels() is not None


def test_the_compiler_may_come_with_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "cc -O1")
    assert build(tmp_path)[1] == ""


def test_a_kernel_refuses_what_it_would_misread() -> None:
    run = kernels()
    assert run is not None
    for bad in (torch.ones(4, 32)[:, ::2], torch.ones(4, 16, dtype=torch.float64)):
        with pytest.raises(RealnetError, match="contiguous fp32 on the CPU"):
            run.norm(bad, 1e-6)


@pytest.mark.parametrize("outside", [-1, 8, 2**40])
def test_a_token_outside_of_the_context_writes_nothing(outside: int) -> None:
    run = kernels()
    assert run is not None
    keys, values = torch.zeros(2, 1, 8, 16), torch.zeros(2, 1, 8, 16)
    with pytest.raises(RealnetError, match="outside of the context"):
        run.decode(torch.ones(2, 48), keys, values, torch.tensor([0, outside]), (1, 1))
    assert not keys.any()
    assert not values.any()


def test_a_model_on_the_kernels_exports_as_before(tmp_path: Path) -> None:
    native = learner()
    native.export(tmp_path / "native")
    model = copy.deepcopy(native.model)
    use_native_blocks(model)  # twice is once more a class, and nothing that is saved
    text = (tmp_path / "native" / "config.json").read_text(encoding="utf-8")
    assert "Native" not in text
    assert '"LlamaForCausalLM"' in text
