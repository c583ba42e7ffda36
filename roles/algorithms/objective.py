"""The objective of a rule: the loss of every token of a micro-batch, and what to watch about it.

    loss = w * (policy loss of (u, A) + beta * KL to the reference)
    u = theta / proximal, of a token or a whole answer; w = proximal / behave, bounded

Decoupled PPO, AReaL (arXiv 2505.24298), eq. 5, after Hilton et al. (arXiv 2110.00641): whatever
policy u is centred on, w corrects for that it is not the one that wrote the token. It is always
applied, to the KL too: a token's share in the gradient is corrected as a whole.

With u centred on the proximal policy nothing holds theta near the one that wrote the token: η + 1
steps in a row see answers of one policy, and each may push as far as the first. `behave_clip`
ends that: it stops what has gone far enough since the token was written.

Knows tensors and the rule, not models or samples. Called by the learner.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from realnet.roles.algorithms import losses
from realnet.roles.algorithms.importance import Weight, loglinear, sequence_log_ratio, weigh
from realnet.roles.algorithms.kl import divergence
from realnet.roles.algorithms.presets import Rule


class Tokens(NamedTuple):
    """The tokens of some whole answers, answer after answer. Shapes: all [T].

    `logp` carries gradient. `owner` is the answer of each token, 0 .. answers - 1; `age` is in
    versions. `proximal` is needed by rules that recompute it, `reference` by those with a KL; other
    rules do not look at them.
    """

    logp: torch.Tensor
    behave: torch.Tensor
    advantage: torch.Tensor
    owner: torch.Tensor
    answers: int
    age: torch.Tensor
    proximal: torch.Tensor | None = None
    reference: torch.Tensor | None = None


class TokenLoss(NamedTuple):
    """Shapes: all [T]. `loss` carries gradient; the others do not.

    `weight` is the importance weight as applied (0 where masked); `ratio` is the one that is
    clipped; `clipped` and `capped` tell where a bound was met.
    """

    loss: torch.Tensor
    ratio: torch.Tensor
    weight: torch.Tensor
    clipped: torch.Tensor
    capped: torch.Tensor


def token_loss(rule: Rule, tokens: Tokens) -> TokenLoss:
    """Return the loss of each token under a rule."""
    logp, advantage = tokens.logp, tokens.advantage
    proximal = _proximal(rule, tokens)
    log_ratio = logp - proximal
    if rule.ratio == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, tokens.owner, tokens.answers)
    ratio = torch.exp(log_ratio)
    if rule.clip is None:
        loss, clipped = losses.unclipped(ratio, advantage)
    elif rule.objective == "cispo":
        loss, clipped = losses.cispo(ratio, logp, advantage, rule.clip)
    else:
        loss, clipped = losses.clipped(ratio, advantage, rule.clip, rule.dual_clip)
    if rule.behave_clip is not None:
        loss, clipped = losses.kept_near(
            loss, clipped, logp - tokens.behave, advantage, rule.behave_clip
        )
    if rule.kl == "loss":
        if tokens.reference is None:
            raise ValueError('kl = "loss" needs the reference of every token')
        apart = divergence(tokens.reference.detach() - logp, rule.kl_estimator)
        loss = loss + rule.kl_beta * apart
    weight = _weight(rule, tokens, proximal)
    return TokenLoss(weight.value * loss, ratio.detach(), weight.value, clipped, weight.capped)


def _proximal(rule: Rule, tokens: Tokens) -> torch.Tensor:
    """Return the log-probabilities that the ratio is centred on, without gradient."""
    if rule.proximal == "behave":
        return tokens.behave
    if rule.proximal == "current":
        return tokens.logp.detach()
    if rule.proximal == "loglinear":
        return loglinear(tokens.logp, tokens.behave, tokens.age)
    if tokens.proximal is None:
        raise ValueError('proximal = "recompute" needs the proximal policy of every token')
    return tokens.proximal.detach()


def _weight(rule: Rule, tokens: Tokens, proximal: torch.Tensor) -> Weight:
    return weigh(
        proximal - tokens.behave,
        tokens.owner,
        tokens.answers,
        rule.weight_level,
        rule.weight,
        rule.weight_cap,
        rule.weight_floor,
    )
