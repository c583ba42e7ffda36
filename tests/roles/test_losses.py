"""The policy loss: hand-derived values, and gradients by autograd against the equations."""

from __future__ import annotations

import math

import pytest
import torch

from realnet.roles.algorithms.losses import (
    TokenLoss,
    WeightMode,
    decoupled_ppo,
    effective_samples,
    kl1,
    kl3,
    ppo,
    token_scale,
)

CLIP = (0.2, 0.28)
NEAR = {"abs": 1e-6, "rel": 1e-6}


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor([math.log(r) for r in ratios], dtype=torch.float64)


def decoupled(
    u: torch.Tensor, w: torch.Tensor, a: torch.Tensor, cap: float = 5.0, mode: WeightMode = "mask"
) -> tuple[TokenLoss, torch.Tensor]:
    """Build logprobs with ratios exp(u) and weights exp(w); return the loss and its gradient."""
    behave = torch.full_like(u, -1.3)
    proximal = behave + w
    logp = (proximal + u).requires_grad_(True)
    terms = decoupled_ppo(logp, proximal, behave, a, CLIP, cap, mode)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logp)
    return terms, gradient


def test_ppo_takes_the_pessimistic_side_of_an_asymmetric_clip() -> None:
    u = logs(1.5, 1.5, 0.5, 0.5, 1.1)
    a = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    logp = u.clone().requires_grad_(True)
    terms = ppo(logp, torch.zeros_like(u), a, CLIP)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logp)
    assert terms.loss.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, -2.2], **NEAR)
    # d(-u A)/d log pi = -u A where the bound is not met, else 0
    assert gradient.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0, -2.2], **NEAR)
    assert terms.clipped.tolist() == [True, False, False, True, False]


def test_the_importance_weight_scales_the_gradient_even_at_ratio_one() -> None:
    w = logs(0.5, 2.0, 4.0)
    a = torch.tensor([1.0, -3.0, 0.5], dtype=torch.float64)
    terms, gradient = decoupled(torch.zeros_like(w), w, a)
    assert terms.ratio.tolist() == pytest.approx([1.0] * 3, **NEAR)
    assert terms.weight.tolist() == pytest.approx([0.5, 2.0, 4.0], **NEAR)
    assert gradient.tolist() == pytest.approx([-0.5, 6.0, -2.0], **NEAR)


def test_without_age_decoupled_is_ppo() -> None:
    u = logs(1.5, 0.6, 1.05, 0.97)
    a = torch.tensor([1.0, -1.0, 0.3, -2.0], dtype=torch.float64)
    terms, gradient = decoupled(u, torch.zeros_like(u), a)
    logp = u.clone().requires_grad_(True)
    plain = ppo(logp, torch.zeros_like(u), a, CLIP)
    (expected,) = torch.autograd.grad(plain.loss.sum(), logp)
    assert torch.allclose(terms.loss, plain.loss, atol=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_the_clip_is_around_the_proximal_policy_not_the_writer() -> None:
    # pi_theta / pi_behave = 3, far outside the clip, but pi_theta / pi_proximal = 1.1 is inside
    terms, gradient = decoupled(logs(1.1), logs(3 / 1.1), torch.ones(1, dtype=torch.float64))
    assert not terms.clipped.any()
    assert gradient.tolist() == pytest.approx([-3.0], **NEAR)


@pytest.mark.parametrize(("mode", "expected"), [("mask", 0.0), ("clamp", 5.0)])
def test_weights_over_the_cap_are_masked_or_clamped(mode: WeightMode, expected: float) -> None:
    w = logs(20.0, 4.9)
    terms, gradient = decoupled(torch.zeros_like(w), w, torch.ones_like(w), mode=mode)
    assert gradient.tolist() == pytest.approx([-expected, -4.9], **NEAR)
    assert terms.capped.tolist() == [True, False]


def test_an_infinite_weight_is_masked_and_nan_is_not_hidden() -> None:
    w = torch.tensor([math.inf, math.nan], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    terms = decoupled_ppo(zero, zero, -w, torch.ones_like(w), CLIP, 5.0, "mask")
    assert terms.loss[0] == 0.0
    assert terms.loss[1].isnan()


def test_the_proximal_policy_carries_no_gradient() -> None:
    proximal = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    logp = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    terms = decoupled_ppo(logp, proximal, proximal.detach(), torch.ones(3), CLIP, 5.0, "mask")
    terms.loss.sum().backward()
    assert proximal.grad is None


def test_normalisers() -> None:
    counts = [3, 0, 1]
    assert token_scale(counts, "tokens", 10) == ([1.0, 1.0, 1.0], 4.0)
    assert token_scale(counts, "sequences", 10) == ([1 / 3, 1.0, 1.0], 2.0)
    assert token_scale(counts, "constant", 10) == ([1.0, 1.0, 1.0], 20.0)
    assert token_scale([], "sequences", 10) == ([], 1.0)


def test_divergence_estimates_agree_with_the_sum() -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    exact = float((p * (p / q).log()).sum())
    log_ratio = (q / p).log()
    assert float((p * kl1(log_ratio)).sum()) == pytest.approx(exact, **NEAR)
    assert float((p * kl3(log_ratio)).sum()) == pytest.approx(exact, **NEAR)
    assert (kl3(log_ratio) >= 0.0).all()


def test_effective_samples() -> None:
    assert effective_samples(4.0, 4.0, 4) == 1.0
    assert effective_samples(4.0, 16.0, 4) == 0.25  # one token has all the weight
    assert effective_samples(0.0, 0.0, 0) == 0.0
