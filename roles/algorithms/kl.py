"""Estimates of the divergence between two policies from tokens that one of them wrote.

r = log q - log p at a token drawn from p; each estimates KL(p || q). Shapes: [T] -> [T].
Source: Schulman 2020, "Approximating KL divergence". Knows tensors. Called by `objective` and the
learner's vital signs.
"""

from __future__ import annotations

from typing import Literal

import torch

Estimator = Literal["k1", "k2", "k3"]


def kl1(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return -r: unbiased, can be negative. As a loss its gradient is zero on average."""
    return -log_ratio


def kl2(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return r^2 / 2: biased, never negative; as a loss its gradient is that of KL(p || q)."""
    return 0.5 * log_ratio * log_ratio


def kl3(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return exp(r) - 1 - r: unbiased, never negative, less noisy than k1."""
    return torch.expm1(log_ratio) - log_ratio


def divergence(log_ratio: torch.Tensor, estimator: Estimator) -> torch.Tensor:
    """Return the estimate of that name."""
    return {"k1": kl1, "k2": kl2, "k3": kl3}[estimator](log_ratio)
