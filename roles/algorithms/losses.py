"""The policy loss, token by token, and what to watch about it.

All functions work on tensors of one shape, usually flat [T]: the learnable tokens of some answers.
Three policies speak of each token: the one being trained (theta), the one just before this update
(proximal), and the one that wrote the token, which may be older (behave). All log-probabilities
are of the distribution that was sampled from: logits divided by the sampling temperature.

Knows nothing of models, sequences or minibatches. Called by the learner.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

WeightMode = Literal["mask", "clamp"]
Normalise = Literal["tokens", "sequences", "constant"]


class TokenLoss(NamedTuple):
    """Shapes: all [T]. `loss` carries gradient; the others do not.

    `weight` is the importance weight as applied (1 without decoupling, 0 where masked); `ratio`
    is the one that is clipped; `clipped` and `capped` tell where a bound was met.
    """

    loss: torch.Tensor
    ratio: torch.Tensor
    weight: torch.Tensor
    clipped: torch.Tensor
    capped: torch.Tensor


def clipped_loss(
    ratio: torch.Tensor, advantage: torch.Tensor, clip: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (-min(u A, clip(u, 1 - low, 1 + high) A), where the bound took the gradient away).

    Source: PPO (arXiv 1707.06347), eq. 7; separate bounds: DAPO (arXiv 2503.14476), eq. 10.
    """
    bounded = ratio.clamp(1.0 - clip[0], 1.0 + clip[1])
    free, held = -ratio * advantage, -bounded * advantage
    return torch.maximum(free, held), (held > free).detach()


def ppo(
    logp: torch.Tensor, behave: torch.Tensor, advantage: torch.Tensor, clip: tuple[float, float]
) -> TokenLoss:
    """Return the clipped loss with u = pi_theta / pi_behave and no importance weight.

    Right when the tokens are fresh; with older ones the clip is centred on the old policy.
    """
    ratio = torch.exp(logp - behave)
    loss, clipped = clipped_loss(ratio, advantage, clip)
    one = torch.ones_like(ratio).detach()
    return TokenLoss(loss, ratio.detach(), one, clipped, torch.zeros_like(clipped))


def decoupled_ppo(
    logp: torch.Tensor,
    proximal: torch.Tensor,
    behave: torch.Tensor,
    advantage: torch.Tensor,
    clip: tuple[float, float],
    cap: float,
    mode: WeightMode,
) -> TokenLoss:
    """Return w * clipped loss, with u = pi_theta / pi_proximal and w = pi_proximal / pi_behave.

    Source: decoupled PPO objective, AReaL (arXiv 2505.24298), eq. 5; after Hilton et al.
    (arXiv 2110.00641). The weight is always applied. Where w > cap, mode "mask" drops the token
    and mode "clamp" applies the cap. A weight that is not a number stays so, to be seen.
    """
    ratio = torch.exp(logp - proximal.detach())
    raw = torch.exp((proximal - behave).detach())
    capped = raw > cap
    limit = torch.zeros_like(raw) if mode == "mask" else torch.full_like(raw, cap)
    weight = torch.where(capped, limit, raw)
    loss, clipped = clipped_loss(ratio, advantage, clip)
    return TokenLoss(weight * loss, ratio.detach(), weight, clipped, capped)


def token_scale(counts: list[int], normalise: Normalise, longest: int) -> tuple[list[float], float]:
    """Return (factor of each sequence's token losses, what their sum is divided by).

    `counts` [n] are the learnable tokens of each sequence of the whole minibatch, masked ones
    included: masking never makes the other tokens weigh more. "tokens": every token weighs the
    same (DAPO, eq. 8). "sequences": every sequence weighs the same (GRPO, eq. 3). "constant":
    every token weighs 1 / longest and every sequence is divided by n (Dr. GRPO).
    """
    filled = sum(1 for count in counts if count)
    if normalise == "tokens":
        return [1.0] * len(counts), float(max(sum(counts), 1))
    if normalise == "sequences":
        return [1.0 / max(count, 1) for count in counts], float(max(filled, 1))
    return [1.0] * len(counts), float(max(filled, 1) * max(longest, 1))


def kl1(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return -r: estimates KL(p || q) from r = log q - log p at samples of p. Shapes: [T] -> [T].

    Source: Schulman, "Approximating KL divergence" (k1): unbiased, can be negative.
    """
    return -log_ratio


def kl3(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return exp(r) - 1 - r: estimates KL(p || q) from r = log q - log p at samples of p (k3).

    Unbiased, never negative, less noisy than k1.
    """
    return torch.expm1(log_ratio) - log_ratio


def effective_samples(total: float, total_of_squares: float, count: int) -> float:
    """Return the effective sample size as a share of `count`: (sum w)^2 / (n sum w^2), in 0..1."""
    if count == 0 or total_of_squares == 0.0:
        return 0.0
    return total * total / (count * total_of_squares)
