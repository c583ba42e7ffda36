"""Ratios between policies: the one that is clipped, and the weight that corrects for age.

Three policies speak of each token: the one being trained (theta), the one that the ratio is centred
on (proximal), and the one that wrote the token (behave). u = theta / proximal moves in the update;
w = proximal / behave is fixed in it. All are log-probabilities of the distribution that was sampled
from: logits divided by the sampling temperature. `owner` [T] tells which answer a token is of,
0 .. answers - 1.

Knows tensors. Called by `objective`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Level = Literal["token", "sequence", "geometric"]
Bound = Literal["mask", "clamp", "off"]


def loglinear(logp: torch.Tensor, behave: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
    """Return an estimate of the proximal log-probability without a forward pass. Shapes: all [T].

    log prox = log behave + a (log theta - log behave), a = (v_prox - v_behave) / (v_theta -
    v_behave). `age` = v_prox - v_behave in versions, and the update makes v_theta = v_prox + 1, so
    a = age / (age + 1): a fresh token's proximal policy is the one that wrote it. No gradient.
    Source: A-3PO (arXiv 2512.06547), eq. 6.
    """
    share = age.to(logp.dtype) / (age.to(logp.dtype) + 1.0)
    return torch.lerp(behave, logp.detach(), share)


def answer_sums(values: torch.Tensor, owner: torch.Tensor, answers: int) -> torch.Tensor:
    """Return the sum over the tokens of each answer. Shapes: [T] -> [answers]."""
    return torch.zeros(answers, dtype=values.dtype, device=values.device).index_add(
        0, owner, values
    )


def answer_means(values: torch.Tensor, owner: torch.Tensor, answers: int) -> torch.Tensor:
    """Return, at each token, the mean over the tokens of its answer. Shapes: [T] -> [T]."""
    counts = answer_sums(torch.ones_like(values), owner, answers)
    return (answer_sums(values, owner, answers) / counts.clamp(min=1.0))[owner]


def sequence_log_ratio(log_ratio: torch.Tensor, owner: torch.Tensor, answers: int) -> torch.Tensor:
    """Return log s at each token, s the geometric mean of its answer's ratios. Shapes: [T] -> [T].

    The gradient stays with the token: log s + log theta_t - sg[log theta_t], so that tokens of one
    answer may have different advantages. With one advantage for all, values and gradients are
    those of the sequence-level form. Source: GSPO-token (arXiv 2507.18071), eq. 13-14; eq. 7 for s.
    """
    mean = answer_means(log_ratio.detach(), owner, answers)
    return mean + (log_ratio - log_ratio.detach())


class Weight(NamedTuple):
    """`value` [T]: the weight as applied; `capped` [T]: where a bound was met."""

    value: torch.Tensor
    capped: torch.Tensor


def weigh(
    log_weight: torch.Tensor,
    owner: torch.Tensor,
    answers: int,
    level: Level,
    bound: Bound,
    cap: float,
    floor: float = 0.0,
) -> Weight:
    """Return bounded importance weights from log w = log proximal - log behave. Shapes: all [T].

    Level "token": each its own. "sequence": the product over its answer, which is the unbiased
    weight of the answer, and noisy. "geometric": the answer's geometric mean.
    Bound "clamp": into [floor, cap]; with "token" this is truncated importance sampling (Espeholt
    et al. 2018, arXiv 1802.01561; TIS). "mask": 0 outside [floor, cap], and the raw weight inside
    (AReaL, arXiv 2505.24298; with a floor: IcePop). "off": 1 everywhere.
    No gradient. A weight that is not a number stays so, to be seen.
    """
    log_weight = log_weight.detach()
    if bound == "off":
        one = torch.ones_like(log_weight)
        return Weight(one, torch.zeros_like(one, dtype=torch.bool))
    if level == "sequence":
        log_weight = answer_sums(log_weight, owner, answers)[owner]
    elif level == "geometric":
        log_weight = answer_means(log_weight, owner, answers)
    raw = torch.exp(log_weight)
    capped = (raw > cap) | (raw < floor)
    if bound == "clamp":
        return Weight(raw.clamp(floor, cap), capped)
    return Weight(torch.where(capped, torch.zeros_like(raw), raw), capped)


def effective_samples(total: float, total_of_squares: float, count: int) -> float:
    """Return the effective sample size as a share of `count`: (sum w)^2 / (n sum w^2), in 0..1."""
    if count == 0 or total_of_squares == 0.0:
        return 0.0
    return total * total / (count * total_of_squares)
