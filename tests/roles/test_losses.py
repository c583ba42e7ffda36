"""Ratios, weights, losses and divergences: hand-derived values, gradients against the equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from realnet.roles.algorithms.importance import effective_samples, loglinear, weigh
from realnet.roles.algorithms.kl import kl1, kl2, kl3
from realnet.roles.algorithms.normalise import token_scale
from realnet.roles.algorithms.objective import TokenLoss, Tokens, token_loss
from realnet.roles.algorithms.presets import PRESETS, Loss, expand
from realnet.roles.algorithms.schedules import rate

CLIP = (0.2, 0.28)
FREE = (1.0, math.inf)  # behave_clip: no bound
NEAR: dict[str, Any] = {"abs": 1e-9, "rel": 1e-9}


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logs(*ratios: float) -> torch.Tensor:
    return numbers(*(math.log(r) for r in ratios))


def made(
    u: torch.Tensor,
    w: torch.Tensor,
    a: torch.Tensor,
    owner: list[int] | None = None,
    age: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
) -> Tokens:
    """Return tokens with ratios exp(u) and weights exp(w), each of an answer of its own."""
    behave = torch.full_like(u, -1.3)
    proximal = behave + w
    of = list(range(len(u))) if owner is None else owner
    return Tokens(
        logp=(proximal + u).requires_grad_(True),
        behave=behave,
        advantage=a,
        owner=torch.tensor(of),
        answers=max(of) + 1,
        age=torch.zeros_like(u) if age is None else age,
        proximal=proximal,
        reference=reference,
    )


def solved(tokens: Tokens, name: Any = "rloo", **fields: Any) -> tuple[TokenLoss, list[float]]:
    """Return the loss of each token and the gradient of their sum by log pi."""
    terms = token_loss(expand(name, Loss(**fields)), tokens)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), tokens.logp)
    return terms, gradient.tolist()


def near(*values: float) -> Any:
    return pytest.approx(list(values), **NEAR)


# ---------------------------------------------------------------- the clipped ratio


def test_ppo_takes_the_pessimistic_side_of_an_asymmetric_clip() -> None:
    u, a = logs(1.5, 1.5, 0.5, 0.5, 1.1), numbers(1.0, -1.0, 1.0, -1.0, 2.0)
    terms, gradient = solved(made(u, torch.zeros(5), a), proximal="behave", clip=CLIP)
    assert terms.loss.tolist() == near(-1.28, 1.5, -0.5, 0.8, -2.2)
    # d(-u A)/d log pi = -u A where the bound is not met, else 0
    assert gradient == near(0.0, 1.5, -0.5, 0.0, -2.2)
    assert terms.clipped.tolist() == [True, False, False, True, False]


def test_what_moved_far_from_its_writer_is_pushed_back_and_not_further() -> None:
    u = logs(1.0, 1.0, 1.0, 1.0, 1.0)
    w, a = logs(1.5, 1.5, 0.5, 0.5, 1.1), numbers(1.0, -1.0, 1.0, -1.0, 2.0)
    bound: dict[str, Any] = {"proximal": "recompute", "weight": "mask", "weight_cap": 5.0}
    terms, gradient = solved(made(u, w, a), **bound, behave_clip=(0.4, 0.4))
    # -w A, and nothing where A pushes a ratio to the writer that is outside [0.6, 1.4] further out
    assert gradient == near(0.0, 1.5, -0.5, 0.0, -2.2)
    assert terms.loss.tolist() == near(-1.5, 1.5, -0.5, 0.5, -2.2)
    assert terms.clipped.tolist() == [True, False, False, True, False]
    _, free = solved(made(u, w, a), **bound, behave_clip=FREE)
    assert free == near(-1.5, 1.5, -0.5, 0.5, -2.2)


def test_the_bound_on_the_writer_leaves_the_kl_alone() -> None:
    u, w, a = logs(1.0), logs(1.5), numbers(1.0)
    kl: dict[str, Any] = {"kl": "loss", "kl_beta": 0.5, "kl_estimator": "k2"}
    weights: dict[str, Any] = {"proximal": "recompute", "weight": "mask", "weight_cap": 5.0}
    reference = made(u, w, a).logp.detach() - 0.2
    terms, gradient = solved(
        made(u, w, a, reference=reference), behave_clip=(0.2, 0.2), **weights, **kl
    )
    assert terms.loss.tolist() == near(1.5 * (-1.0 + 0.5 * 0.5 * 0.2**2))
    assert gradient == near(1.5 * 0.5 * 0.2)


def test_dual_clip_holds_what_a_bad_token_can_cost() -> None:
    u, a = logs(1.5, 4.0, 4.0, 0.5), numbers(-2.0, -2.0, 2.0, -2.0)
    terms, gradient = solved(made(u, torch.zeros(4), a), clip=CLIP, dual_clip=3.0)
    assert terms.loss.tolist() == near(3.0, 6.0, -2.56, 1.6)
    assert gradient == near(3.0, 0.0, 0.0, 0.0)
    assert terms.clipped.tolist() == [False, True, True, True]


def test_cispo_bounds_the_weight_and_keeps_every_gradient() -> None:
    u, a = logs(8.0, 0.01, 1.5), numbers(1.0, -2.0, 3.0)
    terms, gradient = solved(made(u, torch.zeros(3), a), "cispo")
    assert gradient == near(-5.0, 0.02, -4.5)  # -min(u, 5) A
    assert terms.loss.tolist() == near(
        *(g * float(p) for g, p in zip(gradient, (u - 1.3).tolist(), strict=True))
    )
    assert terms.clipped.tolist() == [True, False, False]


def test_a_sequence_ratio_is_the_geometric_mean_of_its_answer() -> None:
    # answer 0: ratios 1.1, 1.3 -> sqrt(1.43); answer 1: 0.9
    u, a = logs(1.1, 1.3, 0.9), numbers(2.0, 2.0, -1.0)
    tokens = made(u, torch.zeros(3), a, owner=[0, 0, 1])
    terms, gradient = solved(tokens, "gspo", clip=(0.3, 0.3))
    s = math.sqrt(1.43)
    assert terms.ratio.tolist() == near(s, s, 0.9)
    assert terms.loss.tolist() == near(-2 * s, -2 * s, 0.9)
    # the sequence form: L = -T s A has d L / d log pi_t = -T s A / T
    assert gradient == near(-2 * s, -2 * s, 0.9)
    held, none = solved(tokens, "gspo")
    assert held.clipped.tolist() == [True, True, True]
    assert none == near(0.0, 0.0, 0.0)


def test_the_sequence_ratio_has_the_gradient_of_its_formula() -> None:
    torch.manual_seed(0)
    behave, logp = torch.randn(2, 6, dtype=torch.float64) * 0.05
    a = numbers(1.0, 1.0, 1.0, -0.5, -0.5, 2.0)
    owner = torch.tensor([0, 0, 0, 1, 1, 2])
    tokens = Tokens(logp.requires_grad_(True), behave, a, owner, 3, torch.zeros(6))
    _, gradient = solved(tokens, "gspo", proximal="behave", clip=(0.5, 0.5))
    sizes = (3, 2, 1)
    total = torch.zeros((), dtype=torch.float64)
    for log_ratio, adv, n in zip((logp - behave).split(sizes), a.split(sizes), sizes, strict=True):
        total = total - n * log_ratio.mean().exp() * adv[0]
    (expected,) = torch.autograd.grad(total, logp)
    assert gradient == near(*expected.tolist())


# ---------------------------------------------------------------- importance weights


def test_the_importance_weight_scales_the_gradient_even_at_ratio_one() -> None:
    terms, gradient = solved(
        made(numbers(0, 0, 0), logs(0.5, 2.0, 4.0), numbers(1.0, -3.0, 0.5)),
        clip=CLIP,
        behave_clip=FREE,
    )
    assert terms.ratio.tolist() == near(1.0, 1.0, 1.0)
    assert terms.weight.tolist() == near(0.5, 2.0, 4.0)
    assert gradient == near(-0.5, 6.0, -2.0)


def test_without_age_decoupled_is_ppo() -> None:
    tokens = made(logs(1.5, 0.6, 1.05, 0.97), torch.zeros(4), numbers(1.0, -1.0, 0.3, -2.0))
    decoupled, gradient = solved(tokens)
    naive, expected = solved(tokens, proximal="behave")
    assert decoupled.loss.tolist() == near(*naive.loss.tolist())
    assert gradient == near(*expected)


def test_the_clip_is_around_the_proximal_policy_not_the_writer() -> None:
    # pi_theta / pi_behave = 3, far outside the clip, but pi_theta / pi_proximal = 1.1 is inside
    moved = made(logs(1.1), logs(3 / 1.1), numbers(1.0))
    terms, gradient = solved(moved, behave_clip=FREE)
    assert not terms.clipped.any()
    assert gradient == near(-3.0)
    terms, gradient = solved(moved)  # unless told so, it is not pushed further from the writer
    assert terms.clipped.all()
    assert gradient == near(0.0)


@pytest.mark.parametrize(("bound", "expected"), [("mask", 0.0), ("clamp", 5.0)])
def test_weights_over_the_cap_are_masked_or_clamped(bound: Any, expected: float) -> None:
    tokens = made(numbers(0, 0), logs(20.0, 4.9), numbers(1.0, 1.0))
    terms, gradient = solved(tokens, weight=bound, weight_cap=5.0, behave_clip=FREE)
    assert gradient == near(-expected, -4.9)
    assert terms.capped.tolist() == [True, False]


@pytest.mark.parametrize(("bound", "expected"), [("mask", 0.0), ("clamp", 0.5)])
def test_weights_under_the_floor_are_masked_or_clamped(bound: Any, expected: float) -> None:
    tokens = made(numbers(0, 0), logs(0.1, 0.6), numbers(1.0, 1.0))
    terms, _ = solved(tokens, weight=bound, weight_floor=0.5)
    assert terms.weight.tolist() == near(expected, 0.6)
    assert terms.capped.tolist() == [True, False]


def test_weights_of_an_answer_are_its_product_or_its_geometric_mean() -> None:
    log_weight, owner = logs(2.0, 8.0, 0.5), torch.tensor([0, 0, 1])

    def of(level: Any) -> list[float]:
        return weigh(log_weight, owner, 2, level, "mask", 100.0).value.tolist()

    assert of("token") == near(2.0, 8.0, 0.5)
    assert of("sequence") == near(16.0, 16.0, 0.5)
    assert of("geometric") == near(4.0, 4.0, 0.5)


def test_an_infinite_weight_is_masked_and_nan_is_not_hidden() -> None:
    tokens = made(numbers(0, 0), torch.zeros(2), numbers(1.0, 1.0))
    tokens = tokens._replace(behave=tokens.behave - numbers(math.inf, math.nan))
    terms, _ = solved(tokens)
    assert terms.loss[0] == 0.0
    assert terms.loss[1].isnan()


def test_truncated_importance_sampling_is_the_bounded_policy_gradient() -> None:
    # w = min(theta / behave, 2), gradient -w A, whatever the proximal policy was
    tokens = made(logs(1.5, 3.0, 0.5), logs(1.0, 1.0, 2.0), numbers(1.0, 2.0, -1.0))
    terms, gradient = solved(tokens, "tis")
    assert terms.ratio.tolist() == [1.0] * 3
    assert gradient == near(-1.5, -4.0, 1.0)


def test_the_loglinear_proximal_policy_lies_between_by_age() -> None:
    behave, logp = numbers(-2.0, -2.0, -2.0), numbers(-1.0, -1.0, -1.0)
    got = loglinear(logp.requires_grad_(True), behave, numbers(0, 1, 3))
    assert got.tolist() == near(-2.0, -1.5, -1.25)
    assert not got.requires_grad
    # of age 1 with theta / behave = 4: prox / behave = theta / prox = 2, fully weighed
    tokens = made(logs(4.0), torch.zeros(1), numbers(1.0), age=numbers(1.0))
    terms, gradient = solved(tokens, proximal="loglinear", clip=(0.2, 2.0), behave_clip=FREE)
    assert (terms.ratio.item(), terms.weight.item()) == (pytest.approx(2.0), pytest.approx(2.0))
    assert gradient == near(-4.0)


def test_the_proximal_policy_carries_no_gradient() -> None:
    proximal = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    logp = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    tokens = made(numbers(0, 0, 0), torch.zeros(3), numbers(1, 1, 1))
    tokens = tokens._replace(logp=logp, proximal=proximal, behave=proximal.detach())
    token_loss(expand("rloo", Loss()), tokens).loss.sum().backward()
    assert proximal.grad is None
    assert logp.grad is not None


def test_effective_samples() -> None:
    assert effective_samples(4.0, 4.0, 4) == 1.0
    assert effective_samples(4.0, 16.0, 4) == 0.25  # one token has all the weight
    assert effective_samples(0.0, 0.0, 0) == 0.0


# ---------------------------------------------------------------- divergence


def test_divergence_estimates_agree_with_the_sum() -> None:
    p, q = numbers(0.7, 0.2, 0.1), numbers(0.5, 0.3, 0.2)
    exact = float((p * (p / q).log()).sum())
    log_ratio = (q / p).log()
    assert float((p * kl1(log_ratio)).sum()) == pytest.approx(exact, **NEAR)
    assert float((p * kl3(log_ratio)).sum()) == pytest.approx(exact, **NEAR)
    assert (kl3(log_ratio) >= 0.0).all()
    assert kl2(numbers(3.0, -2.0)).tolist() == [4.5, 2.0]


def test_which_divergence_pulls_back_as_a_loss() -> None:
    """On average over the policy's own tokens: k2 has the gradient of KL(p || q), k1 has none."""
    z = numbers(0.3, -0.2, 0.5).requires_grad_(True)
    q = torch.log_softmax(numbers(1.0, 0.2, -0.4), 0)

    def gradient(of: torch.Tensor) -> list[float]:
        (got,) = torch.autograd.grad(of, z)
        return [float(v) for v in got]

    def expected_loss(estimate: Any) -> torch.Tensor:
        logp = torch.log_softmax(z, 0)
        return (logp.exp().detach() * estimate(q - logp)).sum()

    logp = torch.log_softmax(z, 0)
    exact = gradient((logp.exp() * (logp - q)).sum())
    assert gradient(expected_loss(kl2)) == near(*exact)
    assert gradient(expected_loss(kl1)) == pytest.approx([0.0] * 3, abs=1e-12)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    # r = log ref - log pi = log 2; k2 = r^2 / 2, slope -r; k3 = e^r - 1 - r, slope 1 - e^r
    [("k2", math.log(2) ** 2 / 2, -math.log(2)), ("k3", 1 - math.log(2), -1.0)],
)
def test_a_kl_in_the_loss_is_weighed_like_the_rest(
    estimator: Any, value: float, slope: float
) -> None:
    w = logs(3.0)
    tokens = made(numbers(0.0), w, numbers(0.0))
    tokens = tokens._replace(reference=tokens.logp.detach() + math.log(2))
    terms, gradient = solved(tokens, kl="loss", kl_beta=0.1, kl_estimator=estimator)
    assert terms.loss.tolist() == near(3.0 * 0.1 * value)
    assert gradient == near(3.0 * 0.1 * slope)


# ---------------------------------------------------------------- every preset, by differences


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("kl", ["off", "loss"])
def test_gradients_are_those_of_finite_differences(name: Any, kl: Any) -> None:
    """The weight and whatever else is held fixed in an update is held fixed here."""
    torch.manual_seed(3)
    behave = -torch.rand(7, dtype=torch.float64) - 0.5
    proximal = behave + 0.2 * torch.randn(7, dtype=torch.float64)
    start = proximal + 1e-4 * torch.randn(7, dtype=torch.float64)
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    advantage = numbers(1.0, -1.0, 0.5)[owner]
    age = numbers(0, 1, 2, 0, 0, 3, 1)
    tokens = Tokens(start, behave, advantage, owner, 3, age, proximal, proximal - 0.3)
    on = {"kl": kl, "kl_beta": 0.05} if kl != "off" else {}
    rule = expand(name, Loss(**on))
    _, gradient = solved(tokens._replace(logp=start.clone().requires_grad_(True)), name, **on)
    fixed = token_loss(rule, tokens)
    centre = {"behave": behave, "current": start}.get(rule.proximal, proximal)

    def loss(logp: torch.Tensor, t: int) -> float:
        ratio = torch.exp((logp - centre)[t])
        if rule.ratio == "sequence":
            same = owner == owner[t]
            ratio = torch.exp((start - centre)[same].mean() + (logp - start)[t])
        if rule.objective == "cispo":
            value = -fixed.ratio[t].clamp(0.0, 5.0) * advantage[t] * logp[t]
        else:
            low, high = rule.clip or (1e9, 1e9)
            value = -torch.min(ratio * advantage[t], ratio.clamp(1 - low, 1 + high) * advantage[t])
        if kl == "loss":
            r = (tokens.reference - logp)[t]  # type: ignore[operator]
            value = value + 0.05 * (r.exp() - 1 - r)
        return float(fixed.weight[t] * value)

    h = 1e-6
    for t in range(7):
        nudge = torch.zeros(7, dtype=torch.float64)
        nudge[t] = h
        slope = (loss(start + nudge, t) - loss(start - nudge, t)) / (2 * h)
        assert gradient[t] == pytest.approx(slope, abs=1e-7)
        assert float(fixed.loss[t]) == pytest.approx(loss(start, t), abs=1e-12)


# ---------------------------------------------------------------- means and schedules


def test_normalisers() -> None:
    counts = [3, 0, 1]
    assert token_scale(counts, "tokens", 10) == ([1.0, 1.0, 1.0], 4.0)
    assert token_scale(counts, "sequences", 10) == ([1 / 3, 1.0, 1.0], 2.0)
    assert token_scale(counts, "constant", 10) == ([1.0, 1.0, 1.0], 20.0)
    assert token_scale([], "sequences", 10) == ([], 1.0)


def test_rates_rise_stay_and_fall() -> None:
    assert [rate(s, "constant", 3, 0, 0.0) for s in range(5)] == near(0.25, 0.5, 0.75, 1.0, 1.0)
    assert [rate(s, "linear", 0, 4, 0.2) for s in range(6)] == near(1.0, 0.8, 0.6, 0.4, 0.2, 0.2)
    assert [rate(s, "cosine", 2, 6, 0.0) for s in (2, 4, 6, 7)] == near(1.0, 0.5, 0.0, 0.0)
