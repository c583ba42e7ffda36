"""The forward pass of a dense Llama-like model over a KV cache: one token a row, or many.

Knows RMSNorm, RoPE, grouped-query attention and SwiGLU; knows nothing of requests, sampling or
versions. Called by `torch_engine`; `native_decoder.py` is the same on kernels in C.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from realnet.errors import ConfigError
from realnet.roles.generator.decoder_weights import Layer, Linear, Weights, is_quick
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.models.shape import Shape


class Decoder:
    """Runs tokens through a model. Set `weights` before the first call; set it again to change."""

    def __init__(
        self, shape: Shape, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.weights: Weights | None = None
        self._shape = shape
        self._q_size = shape.num_attention_heads * shape.head_dim
        self._parts = (shape.num_attention_heads, *[shape.num_key_value_heads] * 2)
        self._turned = sum(self._parts[:2])  # heads that rope turns: queries and keys
        self._quick = is_quick(device, dtype)
        self._epsilon = torch.tensor(shape.rms_norm_eps, device=device)
        self._positions = torch.arange(context, device=device)
        angles = torch.outer(torch.arange(context).float(), _frequencies(shape))
        # x * cos + roll(x) * sin is rope on halves, with the first half of sin negated.
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
        self._rope = torch.stack([cos, sin], 1).to(device, dtype)  # [context, 2, head_dim]
        self._open = torch.zeros((), dtype=dtype, device=device)
        self._shut = torch.full((), -math.inf, dtype=dtype, device=device)

    def decode(
        self, cache: KVCache, tokens: torch.Tensor, positions: torch.Tensor, length: int
    ) -> torch.Tensor:
        """Run one token of each of the first n rows; return logits [n, vocabulary] in fp32.

        `length` is at least the largest position + 1, known to the host so that nothing waits for
        the device.
        """
        weights, count = self._ready(), tokens.shape[0]
        cos, sin = self._turn(self._rope.index_select(0, positions))
        places = cache.places(positions)
        attend, lines = _by_kernel, positions
        if self._quick:  # a line for each kv head
            attend = _by_products
            lines = positions[:, None].expand(-1, self._shape.num_key_value_heads).reshape(-1)
        later = self._positions[:length] > lines[:, None, None]
        mask = torch.where(later, self._shut, self._open)
        x = functional.embedding(tokens, weights.embedding)
        for number, layer in enumerate(weights.layers):
            qkv = self._project(layer, x, cos, sin)
            cache.write_one(number, places, qkv[:, self._q_size :])
            seen = attend(qkv[:, : self._q_size], cache.first(number, count, length), mask)
            x = add_linear(x, seen, layer.out)
            x = self._mlp(layer, x)
        return functional.linear(self._normed(x, weights.norm), weights.head).float()

    def prefill(self, cache: KVCache, rows: torch.Tensor, tokens: torch.Tensor, start: int) -> None:
        """Write the keys and values of `tokens` [m, T] at positions start .. start + T of `rows`.

        What lies before `start` in these rows must be written. Padding at the end of a row does no
        harm: it is masked until real tokens overwrite it.
        """
        weights = self._ready()
        count, width = tokens.shape
        end = start + width
        cos, sin = self._turn(self._rope[start:end])
        mask = self._positions[:end] <= self._positions[start:end, None] if start else None
        x = functional.embedding(tokens, weights.embedding)
        for number, layer in enumerate(weights.layers):
            qkv = self._project(layer, x, cos, sin).view(count, width, -1, self._shape.head_dim)
            queries, keys, values = torch.split_with_sizes(qkv.transpose(1, 2), self._parts, 1)
            cache.write_many(number, rows, start, keys, values)
            if number == len(weights.layers) - 1:
                return  # nobody asks for logits here
            if start:
                keys, values = cache.some(number, rows, end)
            seen = functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=self._shape.group > 1,
            )
            x = add_linear(x, seen.transpose(1, 2).reshape(count, width, -1), layer.out)
            x = self._mlp(layer, x)

    def _turn(self, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin of `angles` [n, 2, head_dim] for all turned heads [n, heads x dim]."""
        wide = angles[:, :, None].expand(-1, -1, self._turned, -1)
        cos, sin = wide.reshape(angles.shape[0], 2, -1).unbind(1)
        return cos, sin

    def _project(
        self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Return queries, keys and values [..., heads x head_dim]; the first two are turned."""
        shape = self._shape
        qkv = functional.linear(self._normed(x, layer.attention_norm), *layer.qkv)
        turned = qkv[..., : self._turned * shape.head_dim]
        heads = turned.view(*x.shape[:-1], self._turned, shape.head_dim)
        if layer.qk_norm is not None:
            heads = functional.rms_norm(heads, (shape.head_dim,), None, shape.rms_norm_eps)
            heads = heads.mul_(layer.qk_norm)
        rolled = heads.roll(shape.head_dim // 2, -1).flatten(-2)
        torch.addcmul(heads.flatten(-2) * cos, rolled, sin, out=turned)
        return qkv

    def _normed(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Return x divided by the root of its mean square, times `weight` if there is one."""
        if not self._quick:
            return functional.rms_norm(x, x.shape[-1:], weight, self._shape.rms_norm_eps)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        mean = torch.addcmul(self._epsilon, size, size, value=1 / x.shape[-1])
        normed = x * mean.rsqrt_()
        return normed if weight is None else normed.mul_(weight)

    def _mlp(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        gate, up = functional.linear(self._normed(x, layer.mlp_norm), *layer.gate_up).chunk(2, -1)
        return add_linear(x, functional.silu(gate).mul_(up), layer.down)

    def _ready(self) -> Weights:
        if self.weights is None:
            raise ConfigError("the decoder has no weights yet; stage and swap a version first")
        return self.weights


def add_linear(x: torch.Tensor, inputs: torch.Tensor, linear: Linear) -> torch.Tensor:
    """Return x + linear(inputs), as one operation where there is no bias."""
    weight, bias = linear
    if bias is not None:
        x = x + bias
    if x.ndim > 2:
        return torch.addmm(x.flatten(0, -2), inputs.flatten(0, -2), weight.t()).view_as(x)
    return torch.addmm(x, inputs, weight.t())


Seen = tuple[torch.Tensor, torch.Tensor]  # keys, values [n x kv head, length, head_dim]


def _by_kernel(queries: torch.Tensor, seen: Seen, mask: torch.Tensor) -> torch.Tensor:
    """Return what one query of each row [n, heads x head_dim] sees, by torch's attention."""
    count = queries.shape[0]
    keys, values = (part.view(count, -1, *part.shape[1:]) for part in seen)
    # The query heads of one kv head stand where a sequence of queries would.
    asked = queries.view(*keys.shape[:2], -1, keys.shape[-1])
    result = functional.scaled_dot_product_attention(asked, keys, values, attn_mask=mask[:, None])
    return result.reshape(queries.shape)


def _by_products(queries: torch.Tensor, seen: Seen, mask: torch.Tensor) -> torch.Tensor:
    """The same as two batched products, which a CPU does faster.

    In fp32 only: in between, scores are of the dtype of the weights.
    """
    keys, values = seen
    asked = queries.reshape(keys.shape[0], -1, keys.shape[-1])
    scores = torch.baddbmm(mask, asked, keys.mT, alpha=keys.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), values).view(queries.shape)


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
