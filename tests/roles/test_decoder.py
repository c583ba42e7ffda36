"""The hand-written decoder against transformers, in fp32, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from realnet.errors import ConfigError
from realnet.roles.generator.decoder import Decoder
from realnet.roles.generator.decoder_weights import read_weights
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.generator.native_decoder import NativeDecoder, decoder_for
from realnet.roles.models.build import build_model, named_weights
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.shape import Shape, read_config, shape_of
from realnet.roles.tables import Policy

CPU = torch.device("cpu")
CONTEXT = 32


def arrays(model: PreTrainedModel) -> dict[str, np.ndarray]:
    return {name: weight.numpy() for name, weight in named_weights(model)}


def new_model(family: str, **shape: float | bool) -> tuple[Shape, PreTrainedModel]:
    policy = Policy(model=f"new:{family}", tokenizer="new:chars", shape=shape, context=CONTEXT)
    tokenizer = load_tokenizer(policy, Path())
    model = build_model(policy, tokenizer, Path(), seed=3)
    # Freshly made norms are 1 and biases 0: a decoder that forgot them would pass.
    generator = torch.Generator().manual_seed(5)
    for _, weight in named_weights(model):
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return shape_of(policy, tokenizer.vocab_size, Path()), model


@torch.inference_mode()
def check(shape: Shape, model: PreTrainedModel, chunk: int, decoder: Decoder | None = None) -> None:
    """Prefill ragged prefixes, decode the rest token by token, compare with the full forward."""
    decoder = decoder or Decoder(shape, CONTEXT, torch.float32, CPU)
    decoder.weights = read_weights(shape, arrays(model), torch.float32, CPU)
    cache = KVCache(shape, 4, CONTEXT, torch.float32, CPU)
    ids = torch.randint(0, shape.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1))
    expected = model(ids).logits
    lengths = torch.tensor([4, 1, 11])  # tokens that are prefilled, of each row
    padded = torch.where(torch.arange(11) < lengths[:, None], ids[:, :11], 0)
    for start in range(0, 11, chunk):
        decoder.prefill(cache, torch.arange(3), padded[:, start : start + chunk], start)
    positions = lengths.clone()
    for _ in range(9):
        tokens = ids.gather(1, positions[:, None])[:, 0]
        logits = decoder.decode(cache, tokens, positions, int(positions.max()) + 1)
        wanted = expected[torch.arange(3), positions]
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
        positions += 1


@pytest.mark.parametrize("chunk", [11, 4])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_equal_transformers(family: str, chunk: int) -> None:
    check(*new_model(family), chunk)


@pytest.mark.parametrize("chunk", [11, 4])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_grouped_queries_untied_head_own_head_dim(family: str, chunk: int) -> None:
    shape, model = new_model(
        family,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=10,
        tie_word_embeddings=False,
        rope_theta=5e5,
    )
    check(shape, model, chunk)


@pytest.mark.usefixtures("native_kernels")
@pytest.mark.parametrize("chunk", [11, 4])
@pytest.mark.parametrize(
    ("family", "heads"),
    [("llama", (4, 4, 16)), ("llama", (2, 1, 32)), ("qwen2", (4, 2, 48)), ("qwen2", (3, 1, 64))],
)
def test_the_decoder_on_kernels_gives_the_same(
    family: str, heads: tuple[int, int, int], chunk: int
) -> None:
    queries, keys, dim = heads
    shape, model = new_model(
        family, hidden_size=48, num_attention_heads=queries, num_key_value_heads=keys, head_dim=dim
    )
    decoder = decoder_for(shape, CONTEXT, torch.float32, CPU)
    assert isinstance(decoder, NativeDecoder)
    check(shape, model, chunk, decoder)


@pytest.mark.usefixtures("native_kernels")
def test_what_the_kernels_cannot_do_is_decoded_as_before() -> None:
    def native(family: str, dtype: torch.dtype = torch.float32, **shape: float) -> bool:
        made = decoder_for(new_model(family, **shape)[0], CONTEXT, dtype, CPU)
        return isinstance(made, NativeDecoder)

    assert native("llama")
    assert not native("qwen3")  # norms of heads
    assert not native("llama", head_dim=10)
    assert not native("llama", dtype=torch.bfloat16)
    torch.set_num_threads(2)
    assert not native("llama")


@pytest.mark.parametrize("native", [False, True])
def test_biases_everywhere_and_llama3_rope(native: bool, request: pytest.FixtureRequest) -> None:
    if native:
        request.getfixturevalue("native_kernels")
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2 if native else 4,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
        max_position_embeddings=64,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for _, weight in named_weights(model):
        weight.add_(torch.randn(weight.shape) * 0.1)
    shape = read_config(config.to_dict(), "here")
    decoder = decoder_for(shape, CONTEXT, torch.float32, CPU)
    assert isinstance(decoder, NativeDecoder) == native
    check(shape, model, 4, decoder)


def test_bf16_is_close() -> None:
    shape, model = new_model("qwen3")
    model = model.to(torch.bfloat16)
    items = {n: w.view(torch.uint16).numpy() for n, w in named_weights(model)}
    decoder = Decoder(shape, CONTEXT, torch.bfloat16, CPU)
    with torch.inference_mode():
        decoder.weights = read_weights(shape, items, torch.bfloat16, CPU)
        cache = KVCache(shape, 1, CONTEXT, torch.bfloat16, CPU)
        ids = torch.tensor([[5, 9, 3, 7]])
        decoder.prefill(cache, torch.arange(1), ids[:, :3], 0)
        logits = decoder.decode(cache, ids[:, 3], torch.tensor([3]), 4)
        expected = model(ids).logits[:, 3].float()
    assert logits.dtype == torch.float32
    assert (logits.softmax(-1) - expected.softmax(-1)).abs().max() < 0.02


def test_weights_are_owned_and_checked() -> None:
    shape, model = new_model("qwen2")
    items = {name: array.copy() for name, array in arrays(model).items()}
    weights = read_weights(shape, items, torch.float32, CPU)
    kept = weights.embedding.clone()
    for array in items.values():
        array[...] = 0
    assert torch.equal(weights.embedding, kept)
    assert weights.head is weights.embedding
    with pytest.raises(ConfigError, match=r"does not have: extra"):
        read_weights(shape, items | {"extra": kept.numpy()}, torch.float32, CPU)
    broken = items | {"model.norm.weight": np.zeros(3, np.float32)}
    with pytest.raises(ConfigError, match=r"model\.norm\.weight is \(3,\)"):
        read_weights(shape, broken, torch.float32, CPU)
    items.pop("model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ConfigError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        read_weights(shape, items, torch.float32, CPU)
