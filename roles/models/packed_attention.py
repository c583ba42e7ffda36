"""Attention over sequences laid end to end in one row, none of which sees another.

All other layers of a decoder work token by token, so one row without padding is all they need. Only
attention must keep sequences apart; the ways to do that are in `attention_kinds.py`. All cost the
sum of squared lengths, where a row with a plain mask costs the square of the sum.

transformers hands what is registered under a name the model's queries, keys and values, and every
keyword that the model was called with. Knows that interface. Called by the learner's forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from realnet.errors import RealnetError
from realnet.roles.models.attention_kinds import attend
from realnet.roles.models.packing import Packing

NAME = "realnet_packed"


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
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [T, heads, d]
    return attend(q, k, v, packing, scaling)[None], None


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
