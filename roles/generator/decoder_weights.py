"""A decoder's weights: read by their Hugging Face names, checked, owned, laid out for decoding.

Knows names, sizes and dtypes; knows nothing of how they are used. Called by `decoder` and by
`torch_engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from realnet.errors import ConfigError, listed
from realnet.roles.models.shape import Shape

Linear = tuple[torch.Tensor, torch.Tensor | None]  # weight [out, in], bias [out]


class Layer(NamedTuple):
    """Weights of one layer. Projections that read the same input are one matrix."""

    attention_norm: torch.Tensor | None  # None: a factor of what reads it, `qkv`
    qkv: Linear
    qk_norm: torch.Tensor | None  # [query heads + kv heads, head_dim]
    out: Linear
    mlp_norm: torch.Tensor | None  # None: a factor of `gate_up`
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
    items: Mapping[str, np.ndarray[Any, Any]],
    dtype: torch.dtype,
    device: torch.device,
) -> Weights:
    """Return the weights named as in a Hugging Face folder. bf16 arrives as uint16.

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
        attention_norm, qkv = self._after_norm(
            self.need(f"{at}.input_layernorm.weight", hidden),
            self._linear(attention, parts, hidden),
        )
        mlp_norm, gate_up = self._after_norm(
            self.need(f"{at}.post_attention_layernorm.weight", hidden),
            self._linear(mlp, {"gate_proj": inner, "up_proj": inner}, hidden),
        )
        return Layer(
            attention_norm=attention_norm,
            qkv=qkv,
            qk_norm=self._qk_norm(attention) if shape.family == "qwen3" else None,
            out=self._linear(attention, {"o_proj": hidden}, q_size),
            mlp_norm=mlp_norm,
            gate_up=gate_up,
            down=self._linear(mlp, {"down_proj": hidden}, inner),
        )

    def need(self, name: str, *size: int) -> torch.Tensor:
        array = self.left.pop(name, None)
        if array is None:
            raise ConfigError(f"these weights lack {name}: they are not of this {self._shape}")
        if array.shape != size:
            raise ConfigError(f"weight {name} is {array.shape}; this model's is {size}")
        if not array.flags.writeable:
            array = array.copy()
        tensor = torch.from_numpy(array)
        if array.dtype == np.uint16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(device=self._device, dtype=self._dtype, copy=True)

    def _linear(self, prefix: str, parts: Mapping[str, int], inputs: int) -> Linear:
        weight = torch.cat([self.need(f"{prefix}.{p}.weight", n, inputs) for p, n in parts.items()])
        if f"{prefix}.{next(iter(parts))}.bias" not in self.left:
            return weight, None
        return weight, torch.cat([self.need(f"{prefix}.{p}.bias", n) for p, n in parts.items()])

    def _after_norm(self, norm: torch.Tensor, linear: Linear) -> tuple[torch.Tensor | None, Linear]:
        """Return a norm's weight and what reads its output: in fp32 the first is put into it."""
        if not is_quick(self._device, self._dtype):
            return norm, linear
        return None, (linear[0] * norm, linear[1])

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


def is_quick(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether small operations are put together by hand: fp32 on a CPU.

    There the number of operations counts, and neither attention nor norms have a kernel of their
    own for a token a row. In a coarser dtype the same would round at other places.
    """
    return device.type == "cpu" and dtype is torch.float32
