"""Numbers of the published implementations, verl and trl, to 1e-6 in float64.

tests/reference/published.py made the file that is compared with, and `make test-reference` checks
that it is still what they say. Inputs are padded [9, 8] there and flat [T] here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realnet.roles.algorithms.credit import credit
from realnet.roles.algorithms.gae import gae
from realnet.roles.algorithms.importance import weigh
from realnet.roles.algorithms.kl import divergence
from realnet.roles.algorithms.normalise import token_scale
from realnet.roles.algorithms.objective import Tokens, token_loss
from realnet.roles.algorithms.presets import Loss, Rule, expand

FILE = Path(__file__).parents[1] / "reference" / "published.json"
PUBLISHED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
GIVEN = PUBLISHED["inputs"]
MASK = np.array(GIVEN["mask"], dtype=bool)
COUNTS = MASK.sum(1).tolist()
OWNER = torch.from_numpy(np.repeat(np.arange(9), COUNTS))
MEANS: Any = ("tokens", "sequences", "constant")


def flat(name: str) -> torch.Tensor:
    return torch.tensor(np.array(GIVEN[name])[MASK], dtype=torch.float64)


def near(got: Any, published: Any) -> None:
    expected = np.array(published)
    expected = expected[MASK] if expected.shape == MASK.shape else expected
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


def penalties(on: bool) -> list[np.ndarray]:
    rows = zip(np.array(GIVEN["token_rewards"]), MASK, strict=True)
    return [-row[mask] * on for row, mask in rows]


@pytest.mark.parametrize(
    ("rule", "name", "on"),
    [
        ("grpo", "grpo", False),
        ("dr_grpo", "dr_grpo", False),
        ("rloo", "rloo", False),
        ("grpo", "grpo with penalties", True),
        ("reinforce_pp", "reinforce_pp", True),
        ("reinforce_pp_baseline", "reinforce_pp_baseline", True),
    ],
)
def test_advantages_are_verls(rule: Any, name: str, on: bool) -> None:
    got = credit(GIVEN["groups"], GIVEN["rewards"], penalties(on), rule)
    near(np.concatenate(got), PUBLISHED["verl"]["advantages"][name])


def test_gae_is_verls() -> None:
    """Of its returns: verl whitens the advantages on the way out."""
    rewards, values = np.array(GIVEN["token_rewards"]), np.array(GIVEN["values"])
    last = MASK.shape[1] - 1 - MASK[:, ::-1].argmax(axis=1)
    rewards[np.arange(9), last] += np.array(GIVEN["rewards"])
    _, returns = gae(rewards, values, MASK, 0.97, 0.9)
    near(returns[MASK], PUBLISHED["verl"]["advantages"]["gae returns"])


def graded(rule: Rule, constant: int, proximal: str = "proximal") -> tuple[float, torch.Tensor]:
    """Return loss and gradient of a rule on the inputs; weights are those of the file."""
    logp = flat("logp").requires_grad_(True)
    behave = flat("behave") if rule.weight != "off" else flat(proximal)
    advantage = torch.tensor(GIVEN["advantages"], dtype=torch.float64)[OWNER]
    tokens = Tokens(
        logp, behave, advantage, OWNER, 9, torch.zeros(len(OWNER)), flat(proximal),
        flat("reference"),
    )  # fmt: skip
    scales, divisor = token_scale(COUNTS, rule.normalise, constant)
    share = torch.tensor(scales, dtype=torch.float64)[OWNER] / divisor
    loss = (token_loss(rule, tokens).loss * share).sum()
    (gradient,) = torch.autograd.grad(loss, logp)
    return loss.item(), gradient


def loss_table(kind: str, mean: Any) -> Loss:
    by = GIVEN["constant"] if mean == "constant" else None
    common: dict[str, Any] = {
        "normalise": mean, "normalise_by": by, "proximal": "recompute", "weight": "clamp",
        "weight_cap": 1.3, "weight_level": "token",
    }  # fmt: skip
    own: dict[str, Any] = {
        "ppo": {"clip": (0.2, 0.28), "behave_clip": (1.0, math.inf)},
        "dual": {"clip": (0.2, 0.28), "dual_clip": 1.5, "behave_clip": (1.0, math.inf)},
        "gspo": {"clip": (0.03, 0.04), "ratio": "sequence"},
        "cispo": {"clip": (0.3, 0.4), "objective": "cispo"},
    }
    return Loss(**common, **own[kind])


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kind", ["ppo", "dual", "gspo", "cispo"])
def test_losses_and_gradients_are_verls(kind: str, mean: Any) -> None:
    published = PUBLISHED["verl"]["losses"][f"{kind} {mean}"]
    loss, gradient = graded(expand("rloo", loss_table(kind, mean)), GIVEN["constant"])
    near(loss, published["loss"])
    near(gradient, published["gradient"])


TRL: dict[str, dict[str, Any]] = {
    "grpo": {"clip": (0.2, 0.28), "normalise": "sequences", "kl": "loss"},
    "dapo": {"clip": (0.2, 0.28), "normalise": "tokens"},
    "dr_grpo": {"clip": (0.2, 0.2), "normalise": "constant", "kl": "loss"},
    "gspo": {"clip": (0.03, 0.04), "normalise": "sequences", "ratio": "sequence"},
    "cispo": {"clip": (1.0, 0.4), "normalise": "tokens", "objective": "cispo"},
}


@pytest.mark.parametrize("kind", list(TRL))
def test_losses_and_gradients_are_trls(kind: str) -> None:
    table = dict(TRL[kind])
    if table["normalise"] == "constant":
        table["normalise_by"] = GIVEN["constant"]
    if "kl" in table:
        table["kl_beta"] = GIVEN["beta"]
    rule = expand("rloo", Loss(proximal="recompute", weight="off", **table))
    loss, gradient = graded(rule, GIVEN["constant"])
    near(loss, PUBLISHED["trl"]["losses"][kind]["loss"])
    near(gradient, PUBLISHED["trl"]["losses"][kind]["gradient"])


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("bound", "floor"), [("clamp", 0.0), ("mask", 0.8)])
def test_importance_weights_are_verls(level: Any, bound: Any, floor: float) -> None:
    got = weigh(flat("proximal") - flat("behave"), OWNER, 9, level, bound, 1.3, floor).value
    near(got, PUBLISHED["verl"]["weights"][f"{bound} {level}"])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_divergences_are_verls(estimator: Any) -> None:
    got = divergence(flat("reference") - flat("logp"), estimator)
    near(got, PUBLISHED["verl"]["divergence"][estimator])
