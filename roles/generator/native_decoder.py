"""The decoder on the kernels in C: what is not a matrix product is one call, on one CPU thread.

Attention reads a row's own tokens and nothing else: no row pays for the longest. It gives what
`Decoder` gives, to rounding.

Knows what `decoder.py` knows. Called by `torch_engine`, through `decoder_for`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from realnet.roles.generator.decoder import Decoder, add_linear
from realnet.roles.generator.decoder_weights import Layer, is_quick
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.models.native.library import LANES, Kernels, kernels
from realnet.roles.models.shape import Shape


class NativeDecoder(Decoder):
    """See `Decoder`. Only where `fits` says so."""

    def __init__(self, shape: Shape, context: int, run: Kernels) -> None:
        super().__init__(shape, context, torch.float32, torch.device("cpu"))
        self._run = run
        self._heads = (shape.num_attention_heads, shape.num_key_value_heads)
        cos, sin = self._rope.unbind(1)
        self._cos = cos.contiguous()
        self._sin = torch.cat([sin[:, sin.shape[1] // 2 :]] * 2, -1)  # of both halves, as it is

    def decode(
        self, cache: KVCache, tokens: torch.Tensor, positions: torch.Tensor, length: int
    ) -> torch.Tensor:
        weights = self._ready()
        cos, sin = self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        x = functional.embedding(tokens, weights.embedding)
        for number, layer in enumerate(weights.layers):
            qkv = self._turned_qkv(layer, x, cos, sin)
            seen = self._run.decode(qkv, *cache.whole(number), positions, self._heads)
            x = self._mlp(layer, add_linear(x, seen, layer.out))
        return functional.linear(self._normed(x, weights.norm), weights.head).float()

    def prefill(self, cache: KVCache, rows: torch.Tensor, tokens: torch.Tensor, start: int) -> None:
        if start:  # a chunk of long prompts: they see what lies in the cache
            return super().prefill(cache, rows, tokens, start)
        weights = self._ready()
        count, width = tokens.shape
        cos, sin = self._cos[:width].repeat(count, 1), self._sin[:width].repeat(count, 1)
        begin = torch.arange(count) * width
        none, all_ = torch.zeros_like(begin), torch.full_like(begin, width)
        runs = torch.stack([begin, none, begin, all_], 1).int()
        x = functional.embedding(tokens.flatten(), weights.embedding)
        for number, layer in enumerate(weights.layers):
            qkv = self._turned_qkv(layer, x, cos, sin)
            heads = qkv.view(count, width, -1, self._shape.head_dim).transpose(1, 2)
            _, keys, values = torch.split_with_sizes(heads, self._parts, 1)
            cache.write_many(number, rows, 0, keys, values)
            if number == len(weights.layers) - 1:
                return None  # nobody asks for logits here
            seen, _ = self._run.attend(qkv, runs, width, self._heads)
            x = self._mlp(layer, add_linear(x, seen, layer.out))
        return None

    def _turned_qkv(
        self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Return queries, keys and values [n, heads x head_dim]; the first two are turned."""
        qkv = functional.linear(self._normed(x, layer.attention_norm), *layer.qkv)
        self._run.rope(qkv, cos, sin, self._turned, 1.0)
        return qkv

    def _normed(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if x.ndim > 2 or not x.is_contiguous():
            return super()._normed(x, weight)
        normed, _ = self._run.norm(x, self._shape.rms_norm_eps)
        return normed if weight is None else normed.mul_(weight)

    def _mlp(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        both = functional.linear(self._normed(x, layer.mlp_norm), *layer.gate_up)
        if both.ndim > 2:
            return super()._mlp(layer, x)
        return add_linear(x, self._run.swiglu(both), layer.down)


def fits(shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether a model runs on the kernels: fp32, one thread, no norms of heads, even sizes."""
    sizes = (shape.head_dim, shape.hidden_size, shape.intermediate_size)
    even = not any(size % LANES for size in sizes)
    one = torch.get_num_threads() == 1
    return is_quick(device, dtype) and one and even and shape.family != "qwen3"


def decoder_for(shape: Shape, context: int, dtype: torch.dtype, device: torch.device) -> Decoder:
    """Return the quickest decoder that this model and machine can have."""
    run = kernels() if fits(shape, dtype, device) else None
    if run is None:
        return Decoder(shape, context, dtype, device)
    return NativeDecoder(shape, context, run)
