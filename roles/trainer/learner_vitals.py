"""The vital signs of a step: sums over the tokens that were trained on, made into means.

Knows tensors of one micro-batch at a time. Called by the learner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from realnet.roles.algorithms.importance import effective_samples
from realnet.roles.algorithms.kl import kl1, kl3
from realnet.roles.algorithms.objective import TokenLoss, Tokens

_TWICE = math.log(2.0)  # a token over twice as likely, or under half, belongs to the ratio's tail


class Vitals:
    """Adds up what the micro-batches of one step say."""

    def __init__(self) -> None:
        self.tokens = 0
        self.updates = 0
        self.largest = 0.0
        self.norms = 0.0
        self.losses = 0.0
        self.sums: dict[str, float] = {}

    def add(self, terms: TokenLoss, tokens: Tokens) -> None:
        """Count the tokens of one micro-batch."""
        weight, logp = terms.weight, tokens.logp.detach()
        gap = logp - tokens.behave
        columns = {
            "ratio_mean": terms.ratio,
            "clip_fraction": terms.clipped,
            "weight_mean": weight,
            "weight_square": weight * weight,
            "weight_capped": terms.capped,
            "ratio_tail": gap.abs() > _TWICE,
            "kl": kl3(gap),
            "kl1": kl1(gap),
        }
        if tokens.reference is not None:
            columns["kl_ref"] = kl3(tokens.reference - logp)
        totals = torch.stack([c.float().sum() for c in columns.values()]).tolist()
        for name, total in zip(columns, totals, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.tokens += weight.numel()
        self.largest = max(self.largest, float(weight.max()))

    def join(self, sums: Mapping[str, float], tokens: int, largest: float) -> None:
        """Count what another rank counted."""
        for name, total in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.tokens += tokens
        self.largest = max(self.largest, largest)

    def add_update(self, loss: float, norm: float) -> None:
        """Count one optimizer update."""
        self.updates += 1
        self.losses += loss
        self.norms += norm

    def signs(self) -> dict[str, float]:
        """Return the means over trained tokens (0 where there were none)."""
        count = max(self.tokens, 1)
        means = {name: total / count for name, total in self.sums.items()}
        square = means.pop("weight_square", 0.0)
        return {
            "loss": self.losses / max(self.updates, 1),
            "grad_norm": self.norms / max(self.updates, 1),
            "updates": float(self.updates),
            "tokens_trained": float(self.tokens),
            "weight_max": self.largest,
            "ess": effective_samples(
                self.sums.get("weight_mean", 0.0), square * count, self.tokens
            ),
            **dict.fromkeys(NAMES, 0.0),
            **means,
        }


NAMES = (
    *("ratio_mean", "ratio_tail", "clip_fraction", "weight_mean", "weight_capped"),
    *("kl", "kl1"),
)
