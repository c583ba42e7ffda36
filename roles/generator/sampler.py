"""Drawing tokens: temperature, top-k, top-p, and a random number that belongs to a request.

Each draw uses one uniform number that belongs to the request and the token (`dice`), so that a
request draws the same tokens whichever rows it shares the engine with.

Knows nothing of requests or models. Called by `torch_engine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from realnet.roles.messages import Sampling


class Knobs(NamedTuple):
    """Sampling parameters of n rows as tensors; a part that no row asks for is None."""

    temperature: torch.Tensor | None  # [n, 1], 1 for greedy rows
    greedy: torch.Tensor | None  # [n]
    top_k: torch.Tensor | None  # [n, 1]
    top_p: torch.Tensor | None  # [n, 1]
    stops: torch.Tensor | None  # [n, most stops], padded with -1
    all_greedy: bool


def knobs_of(rows: Sequence[Sampling], device: torch.device) -> Knobs:
    """Return the parameters of these rows, in their order."""

    def column(values: list[Any], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    greedy = [r.temperature == 0 for r in rows]
    heated = any(r.temperature not in (0, 1) for r in rows)
    cut_k = any(r.top_k > 0 for r in rows)
    cut_p = any(r.top_p < 1 for r in rows)
    most = max((len(r.stop_ids) for r in rows), default=0)
    stops = [[*r.stop_ids, *[-1] * (most - len(r.stop_ids))] for r in rows]
    return Knobs(
        temperature=column([r.temperature or 1.0 for r in rows], torch.float32) if heated else None,
        greedy=column(greedy, torch.bool)[:, 0] if any(greedy) else None,
        top_k=column([r.top_k or 2**31 for r in rows], torch.int64) if cut_k else None,
        top_p=column([r.top_p if r.top_p < 1 else 2.0 for r in rows], torch.float64)
        if cut_p
        else None,
        stops=torch.tensor(stops, device=device) if most else None,
        all_greedy=all(greedy),
    )


def draw(
    logits: torch.Tensor, knobs: Knobs, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a token of each row [n] and its log-probability [n].

    The log-probability is that of the distribution drawn from: after temperature, and renormalised
    inside the top-k / top-p set. A greedy row reports it under temperature 1, untruncated.
    `uniform` is [n, 1] in [0, 1), fp64.
    """
    if knobs.temperature is not None:
        logits = logits / knobs.temperature
    if knobs.top_k is not None or knobs.top_p is not None:
        cut = _truncate(logits, knobs)
        logits = cut if knobs.greedy is None else torch.where(knobs.greedy[:, None], logits, cut)
    logprobs = logits.log_softmax(-1)
    if knobs.all_greedy:
        tokens = logits.argmax(-1)
    else:
        # Inverse of the cumulative distribution. fp64: in fp32 a large vocabulary loses its tail.
        # A token of probability zero is never drawn: it does not raise the sum.
        sums = logprobs.exp().cumsum(-1, dtype=torch.float64)
        tokens = torch.searchsorted(sums, uniform * sums[:, -1:], right=True)[:, 0]
        if knobs.greedy is not None:
            tokens = torch.where(knobs.greedy, logits.argmax(-1), tokens)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _truncate(logits: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """Return logits with -inf outside the top-k, and of that the top-p, set of each row."""
    ranked, order = logits.sort(-1, descending=True)
    if knobs.top_k is not None:
        rank = torch.arange(ranked.shape[-1], device=ranked.device)
        ranked = ranked.masked_fill(rank >= knobs.top_k, -math.inf)
    if knobs.top_p is not None:
        probabilities = ranked.double().softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ranked = ranked.masked_fill(before >= knobs.top_p, -math.inf)
    return torch.empty_like(logits).scatter_(-1, order, ranked)
