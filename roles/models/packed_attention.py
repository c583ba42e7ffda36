"""Attention over sequences laid end to end in one row, none of which sees another.

All other layers of a decoder work token by token, so one row without padding is all they need. Only
attention must keep sequences apart: their queries, keys and values are gathered into small padded
batches of similar lengths, and plain causal attention runs there. That costs the sum of squared
lengths, where one row with a block-diagonal mask costs the square of the sum; no mask is needed, so
the quick kernels of CPU and GPU do the work.

transformers hands what is registered under a name the model's queries, keys and values, and every
keyword that the model was called with. Knows tensors and that interface. Called by the learner's
forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from realnet.errors import RealnetError

NAME = "realnet_packed"
_ALIKE = 2  # lengths in one padded batch differ by less than this factor
_FEW_TOKENS = 256  # padding that is cheaper than one more batch


class Packing(NamedTuple):
    """How a row of sequences is taken apart and put together again.

    `positions` [1, T] count from 0 in each sequence. `gather` holds, for each padded batch, the
    places in the row [n, width]; `back` [T] the places of the row's tokens in all batches together.
    """

    positions: torch.Tensor
    gather: tuple[torch.Tensor, ...]
    back: torch.Tensor

    def to(self, device: torch.device) -> Packing:
        """Return the same on a device."""
        return Packing(
            self.positions.to(device),
            tuple(index.to(device) for index in self.gather),
            self.back.to(device),
        )


def pack(lengths: Sequence[int]) -> Packing:
    """Return the packing of sequences of these lengths (each 1 or more), in this order."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    starts = torch.cumsum(sizes, 0) - sizes
    gather: list[torch.Tensor] = []
    back = torch.empty(int(sizes.sum()), dtype=torch.int64)
    before = 0
    for members in _alike(lengths):
        which = torch.tensor(members)
        width = lengths[members[0]]
        steps = torch.arange(width)
        real = steps < sizes[which][:, None]
        # what stands behind a sequence's end is never looked back at: any place will do
        index = torch.where(real, starts[which][:, None] + steps, 0)
        back[index[real]] = before + torch.arange(real.numel()).view_as(real)[real]
        gather.append(index)
        before += real.numel()
    positions = torch.cat([torch.arange(length) for length in lengths])
    return Packing(positions[None], tuple(gather), back)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return positions in `lengths` in batches of similar lengths, longest first in each."""
    batches: list[list[int]] = []
    waste = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches:
            widest = lengths[batches[-1][0]]
            waste += widest - lengths[i]
            if lengths[i] * _ALIKE > widest or waste < _FEW_TOKENS:
                batches[-1].append(i)
                continue
        batches.append([i])
        waste = 0
    return batches


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention [1, T, heads, d] over a packed row; without `packing`, over padded rows.

    Shapes: query [1, heads, T, d], key and value [1, heads or fewer, T, d].
    """
    if keywords.get("sliding_window") is not None or keywords.get("softcap") is not None:
        raise RealnetError(
            "this model's attention has a window or a soft cap, which packed attention does not: "
            'set [roles.trainer] rows = "padded"'
        )
    if packing is None:
        keywords.pop("is_causal", None)
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **keywords
        )
        return output, None
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]  # [T, heads, d]
    outputs: list[torch.Tensor] = []
    for index in packing.gather:
        n, width = index.shape
        flat = index.flatten()
        q, k, v = (
            row.index_select(0, flat).view(n, width, *row.shape[1:]).transpose(1, 2) for row in rows
        )
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(out.transpose(1, 2).reshape(n * width, *rows[0].shape[1:2], v.shape[-1]))
    together = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return together.index_select(0, packing.back)[None], None


def can_pack(model: Any) -> bool:
    """Tell whether a transformers model does nothing across tokens but plain causal attention."""
    config = model.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    cap = getattr(config, "attn_logit_softcapping", None)
    return bool(
        getattr(model, "_supports_attention_backend", False)
        and layers == {"full_attention"}
        and not window
        and not cap
    )


def use_packed_attention(model: Any) -> None:
    """Make a model's attention this one while the object lives; nothing of it is saved."""
    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
