"""Models: the demo shape, folders, named weights, and the atomic export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from realnet.errors import ConfigError
from realnet.roles.models import build
from realnet.roles.models.build import build_model, export_hf, load_named_weights, named_weights
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.shape import read_config, shape_of
from realnet.roles.tables import Policy


def made(tmp_path: Path, model: str = "new:llama", seed: int = 0, **shape: float | bool):
    policy = Policy(model=model, tokenizer="new:chars", shape=shape, context=64)
    tokenizer = load_tokenizer(policy, tmp_path)
    return policy, tokenizer, build_model(policy, tokenizer, tmp_path, seed)


def test_demo_model_has_the_demo_size(tmp_path: Path) -> None:
    _, tokenizer, model = made(tmp_path)
    block = 4 * 64 * 64 + 3 * 64 * 192 + 2 * 64
    assert sum(w.numel() for _, w in named_weights(model)) == (
        2 * block + 64 + tokenizer.vocab_size * 64
    )


def test_seed_decides_the_weights_and_leaves_the_global_state(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (dict(named_weights(made(tmp_path, seed=s)[2])) for s in (1, 1, 2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("tied", [True, False])
def test_named_weights_are_unique_storage_in_layer_order(tmp_path: Path, tied: bool) -> None:
    model = made(tmp_path, tie_word_embeddings=tied)[2]
    names = [name for name, _ in named_weights(model)]
    assert names[0] == "model.embed_tokens.weight"
    assert ("lm_head.weight" in names) is not tied
    layers = [int(n.split(".")[2]) for n in names if ".layers." in n]
    assert layers == sorted(layers)
    storages = {w.data_ptr() for _, w in named_weights(model)}
    assert len(storages) == len(names)


def test_load_named_weights_is_all_or_nothing(tmp_path: Path) -> None:
    source, target = made(tmp_path, seed=1)[2], made(tmp_path, seed=2)[2]
    items = {n: w.clone() for n, w in named_weights(source)}
    broken = dict(items)
    broken["model.norm.weight"] = torch.zeros(3)
    before = {n: w.clone() for n, w in named_weights(target)}
    with pytest.raises(ConfigError, match=r"another shape: model\.norm\.weight"):
        load_named_weights(target, broken)
    assert all(torch.equal(before[n], w) for n, w in named_weights(target))
    load_named_weights(target, items)
    assert all(torch.equal(items[n], w) for n, w in named_weights(target))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_export_loads_in_transformers_and_here(tmp_path: Path, family: str) -> None:
    policy, tokenizer, model = made(tmp_path, f"new:{family}", num_key_value_heads=2)
    export_hf(model, tokenizer, tmp_path / "out")
    export_hf(model, tokenizer, tmp_path / "out")  # replaces what is there
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    ids = torch.tensor([tokenizer.encode("12+34=")])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.config.model_type == family
    assert theirs.config.eos_token_id == tokenizer.eos_id
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, model(ids).logits)
    back = Policy(model="./out")
    again = build_model(back, load_tokenizer(back, tmp_path), tmp_path, 9)
    assert all(
        torch.equal(a, b)
        for (_, a), (_, b) in zip(named_weights(model), named_weights(again), strict=True)
    )
    here, there = (shape_of(p, tokenizer.vocab_size, tmp_path) for p in (policy, back))
    assert here == there


def test_export_that_fails_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokenizer, model = made(tmp_path)
    export_hf(model, tokenizer, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())

    def fail(folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_hf(model, tokenizer, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'\[policy\]\.shape\.hiden_size.*"hidden_size"'):
        made(tmp_path, hiden_size=3)
    with pytest.raises(ConfigError, match="not a multiple"):
        made(tmp_path, num_key_value_heads=3)
    with pytest.raises(ConfigError, match=r"no such new model.*new:llama, new:qwen2, new:qwen3"):
        made(tmp_path, "new:gpt2")
    with pytest.raises(ConfigError, match="is not a folder"):
        made(tmp_path, "./nothing")


def test_other_architectures_are_refused_by_name() -> None:
    config = transformers.MixtralConfig().to_dict()
    with pytest.raises(ConfigError, match=r'here: architecture "mixtral"'):
        read_config(config, "here")
    sliding = transformers.Qwen2Config(use_sliding_window=True, max_window_layers=1).to_dict()
    with pytest.raises(ConfigError, match="sliding"):
        read_config(sliding, "here")
    yarn = transformers.LlamaConfig(
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    ).to_dict()
    with pytest.raises(ConfigError, match="'yarn'"):
        read_config(yarn, "here")


def test_dtype_of_the_policy_is_the_models(tmp_path: Path) -> None:
    policy = Policy(model="new:llama", tokenizer="new:chars", dtype="bf16")
    model = build_model(policy, load_tokenizer(policy, tmp_path), tmp_path, 0)
    assert {w.dtype for _, w in named_weights(model)} == {torch.bfloat16}
    assert build.DTYPES["bf16"] is torch.bfloat16
