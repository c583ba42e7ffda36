"""The forward pass of a dense Llama-like model over a KV cache: one token a row, or many.

Knows RMSNorm, RoPE, grouped-query attention, SwiGLU and the Hugging Face names of their weights;
knows nothing of requests, sampling or versions. Called by `torch_engine`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from realnet.errors import ConfigError, listed
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.models.shape import Shape

Linear = tuple[torch.Tensor, torch.Tensor | None]  # weight [out, in], bias [out]


class Layer(NamedTuple):
    """Weights of one layer. Projections that read the same input are one matrix."""

    attention_norm: torch.Tensor
    qkv: Linear
    qk_norm: torch.Tensor | None  # [query heads + kv heads, head_dim]
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Weights(NamedTuple):
    """A whole set of weights, owned: it shares no memory with what it was read from."""

    embedding: torch.Tensor
    layers: tuple[Layer, ...]
    norm: torch.Tensor
    head: torch.Tensor


def read_weights(
    shape: Shape,
    items: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Weights:
    """Return the weights named as in a Hugging Face folder: numpy arrays, bf16 as uint16, or
    tensors.

    Raises ConfigError when one is missing, unknown, or of another size.
    """
    reader = _Reader(shape, items, dtype, device)
    embedding = reader.need("model.embed_tokens.weight", shape.vocab_size, shape.hidden_size)
    layers = tuple(reader.layer(n) for n in range(shape.num_hidden_layers))
    norm = reader.need("model.norm.weight", shape.hidden_size)
    head = embedding
    if not shape.tie_word_embeddings:
        head = reader.need("lm_head.weight", shape.vocab_size, shape.hidden_size)
    else:
        reader.left.pop("lm_head.weight", None)
    if reader.left:
        raise ConfigError(f"weights that a {shape.family} does not have: {listed(reader.left)}")
    return Weights(embedding, layers, norm, head)


class _Reader:
    """Takes named arrays one by one, checks their sizes, and owns copies on the device."""

    def __init__(
        self,
        shape: Shape,
        items: Mapping[str, np.ndarray[Any, Any]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.left = dict(items)
        self._shape = shape
        self._dtype = dtype
        self._device = device

    def layer(self, number: int) -> Layer:
        shape = self._shape
        at = f"model.layers.{number}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        hidden, inner = shape.hidden_size, shape.intermediate_size
        q_size = shape.num_attention_heads * shape.head_dim
        kv_size = shape.num_key_value_heads * shape.head_dim
        parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        return Layer(
            attention_norm=self.need(f"{at}.input_layernorm.weight", hidden),
            qkv=self._linear(attention, parts, hidden),
            qk_norm=self._qk_norm(attention) if shape.family == "qwen3" else None,
            out=self._linear(attention, {"o_proj": hidden}, q_size),
            mlp_norm=self.need(f"{at}.post_attention_layernorm.weight", hidden),
            gate_up=self._linear(mlp, {"gate_proj": inner, "up_proj": inner}, hidden),
            down=self._linear(mlp, {"down_proj": hidden}, inner),
        )

    def need(self, name: str, *size: int) -> torch.Tensor:
        array = self.left.pop(name, None)
        if array is None:
            raise ConfigError(f"these weights lack {name}: they are not of this {self._shape}")
        if tuple(array.shape) != size:
            raise ConfigError(f"weight {name} is {tuple(array.shape)}; this model's is {size}")
        tensor = array if isinstance(array, torch.Tensor) else _as_tensor(array)
        return tensor.to(device=self._device, dtype=self._dtype, copy=True)

    def _linear(self, prefix: str, parts: Mapping[str, int], inputs: int) -> Linear:
        weight = torch.cat([self.need(f"{prefix}.{p}.weight", n, inputs) for p, n in parts.items()])
        if f"{prefix}.{next(iter(parts))}.bias" not in self.left:
            return weight, None
        return weight, torch.cat([self.need(f"{prefix}.{p}.bias", n) for p, n in parts.items()])

    def _qk_norm(self, attention: str) -> torch.Tensor:
        shape = self._shape
        queries, keys = (
            self.need(f"{attention}.{part}_norm.weight", shape.head_dim) for part in "qk"
        )
        return torch.cat(
            [
                queries.expand(shape.num_attention_heads, -1),
                keys.expand(shape.num_key_value_heads, -1),
            ]
        )


def _as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


class Decoder:
    """Runs tokens through a model. Set `weights` before the first call; set it again to change."""

    def __init__(
        self, shape: Shape, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.weights: Weights | None = None
        self._shape = shape
        self._heads = shape.num_attention_heads
        self._kv_heads = shape.num_key_value_heads
        self._turned = self._heads + self._kv_heads  # heads that rope turns: queries and keys
        self._positions = torch.arange(context, device=device)
        angles = torch.outer(torch.arange(context).float(), _frequencies(shape))
        # x * cos + roll(x) * sin is rope on halves, with the first half of sin negated.
        self._cos = torch.cat([angles.cos(), angles.cos()], -1)[:, None].to(device, dtype)
        self._sin = torch.cat([-angles.sin(), angles.sin()], -1)[:, None].to(device, dtype)

    def decode(
        self, cache: KVCache, tokens: torch.Tensor, positions: torch.Tensor, length: int
    ) -> torch.Tensor:
        """Run one token of each of the first n rows; return logits [n, vocabulary] in fp32.

        `length` is at least the largest position + 1, known to the host so that nothing waits for
        the device.
        """
        weights, shape = self._ready(), self._shape
        count = tokens.shape[0]
        cos = self._cos.index_select(0, positions)
        sin = self._sin.index_select(0, positions)
        where = cache.starts[:count] + positions
        later = self._positions[:length] > positions[:, None]
        mask = torch.zeros(later.shape, dtype=cos.dtype, device=cos.device)
        mask = mask.masked_fill_(later, -math.inf)[:, None, None]
        x = functional.embedding(tokens, weights.embedding)
        for number, layer in enumerate(weights.layers):
            qkv = self._project(layer, x, cos, sin)
            cache.write_one(number, where, qkv[:, self._heads :])
            keys, values = cache.first(number, count, length)
            # The query heads of one kv head stand where a sequence of queries would.
            queries = qkv[:, : self._heads].view(count, self._kv_heads, shape.group, -1)
            seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            x = _add_linear(x, seen.reshape(count, -1), layer.out)
            x = self._mlp(layer, x)
        x = functional.rms_norm(x, x.shape[-1:], weights.norm, shape.rms_norm_eps)
        return functional.linear(x, weights.head).float()

    def prefill(self, cache: KVCache, rows: torch.Tensor, tokens: torch.Tensor, start: int) -> None:
        """Write the keys and values of `tokens` [m, T] at positions start .. start + T of `rows`.

        What lies before `start` in these rows must be written. Padding at the end of a row does no
        harm: it is masked until real tokens overwrite it.
        """
        weights = self._ready()
        count, width = tokens.shape
        end = start + width
        cos = self._cos[start:end].repeat(count, 1, 1)
        sin = self._sin[start:end].repeat(count, 1, 1)
        mask = self._positions[:end] <= self._positions[start:end, None] if start else None
        x = functional.embedding(tokens.reshape(-1), weights.embedding)
        for number, layer in enumerate(weights.layers):
            qkv = self._project(layer, x, cos, sin).view(count, width, -1, self._shape.head_dim)
            kv = qkv[:, :, self._heads :]
            cache.write_many(number, rows, start, kv)
            if number == len(weights.layers) - 1:
                return  # nobody asks for logits here
            if start:
                keys, values = cache.some(number, rows, end)
            else:
                keys, values = (part.transpose(1, 2) for part in kv.chunk(2, 2))
            seen = functional.scaled_dot_product_attention(
                qkv[:, :, : self._heads].transpose(1, 2),
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=self._shape.group > 1,
            )
            x = _add_linear(x, seen.transpose(1, 2).reshape(count * width, -1), layer.out)
            x = self._mlp(layer, x)

    def _project(
        self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Return queries, keys and values [tokens, heads, head_dim]; the first two are turned."""
        shape = self._shape
        x = functional.rms_norm(x, x.shape[-1:], layer.attention_norm, shape.rms_norm_eps)
        qkv = functional.linear(x, *layer.qkv).view(x.shape[0], -1, shape.head_dim)
        turned = qkv[:, : self._turned]
        source = turned
        if layer.qk_norm is not None:
            source = functional.rms_norm(turned, (shape.head_dim,), None, shape.rms_norm_eps)
            source = source.mul_(layer.qk_norm)
        rolled = source.roll(shape.head_dim // 2, -1)
        torch.addcmul(source * cos, rolled, sin, out=turned)
        return qkv

    def _mlp(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self._shape.rms_norm_eps)
        gate, up = functional.linear(normed, *layer.gate_up).chunk(2, -1)
        return _add_linear(x, functional.silu(gate).mul_(up), layer.down)

    def _ready(self) -> Weights:
        if self.weights is None:
            raise ConfigError("the decoder has no weights yet; stage and swap a version first")
        return self.weights


def _add_linear(x: torch.Tensor, inputs: torch.Tensor, linear: Linear) -> torch.Tensor:
    """Return x + linear(inputs), as one operation where there is no bias."""
    weight, bias = linear
    if bias is not None:
        x = x + bias
    return torch.addmm(x, inputs, weight.t())


def _frequencies(shape: Shape) -> torch.Tensor:
    """Return rope's angle per position of each pair of dimensions."""
    exponents = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
    plain = 1.0 / shape.rope_theta**exponents
    if not shape.rope:
        return plain
    # Scaled as Llama 3.1 defines it: long waves are stretched, short ones kept, blended between.
    factor = float(shape.rope["factor"])
    low, high = float(shape.rope["low_freq_factor"]), float(shape.rope["high_freq_factor"])
    turns = float(shape.rope["original_max_position_embeddings"]) * plain / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * plain / factor + blend * plain
