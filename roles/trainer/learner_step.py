"""One step: its answers, what the reference says of them, and all the updates they are dealt into.

    epochs x minibatches: proximal logprobs -> micro-batches: logprobs -> token_loss -> gradients
                          -> one update

Answers whose advantage is zero, or whose tokens are all too old, count in every mean but are never
run through the model: their gradient is exactly zero (unless a KL in the loss gives them one).

Knows answers as they are laid out; the model is the learner's, whole or cut over ranks. Made by the
learner for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from realnet.errors import RealnetError
from realnet.roles.algorithms.advantages import Array
from realnet.roles.algorithms.kl import divergence
from realnet.roles.algorithms.normalise import token_scale
from realnet.roles.algorithms.presets import Rule
from realnet.roles.algorithms.schedules import rate
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner_batch import Sample
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.learner_part import Floats, Known, Part, Row, make_part
from realnet.roles.trainer.learner_pass import Scorer
from realnet.roles.trainer.learner_vitals import Vitals


class Computes(Protocol):
    """What a step needs of its learner."""

    policy: Policy
    config: LearnerConfig
    rule: Rule
    scorer: Scorer
    reference: Scorer | None
    rng: torch.Generator
    optimizer: Any
    steps: int
    horizon: int

    def parts(self, rows: Sequence[Row]) -> list[list[int]]: ...
    def score_rows(self, scorer: Scorer, rows: Sequence[Row]) -> list[Floats]: ...
    def apply(self, parts: Sequence[Part], vitals: Vitals) -> tuple[float, float]: ...


class Step:
    """The step of these answers."""

    def __init__(self, learner: Computes, samples: list[Sample]) -> None:
        self._learner = learner
        self._samples = samples
        self._vitals = Vitals()
        self._reference = self._refer()

    def penalties(self) -> list[Array] | None:
        """Return what a KL in the reward takes off each token, [n] of [T]; None without one."""
        rule = self._learner.rule
        if rule.kl != "reward":
            return None
        result = [np.zeros(len(sample.where)) for sample in self._samples]
        for i, logp in self._reference.items():
            apart = divergence(torch.from_numpy(logp - self._samples[i].behave), rule.kl_estimator)
            result[i] = rule.kl_beta * apart.numpy()
        return result

    def train(self) -> Vitals:
        """Do all updates; credit was given."""
        learner, config, samples = self._learner, self._learner.config, self._samples
        learner.optimizer.lr = config.lr * rate(
            learner.steps, config.schedule, config.warm_up, learner.horizon, config.lr_end
        )
        cuts = [self._cut(len(samples)) for _ in range(config.epochs)]
        proximal: dict[int, Floats] = {}
        if learner.rule.proximal == "recompute" and config.epochs * config.minibatches > 1:
            # the first update's proximal policy is the policy itself: no pass for its answers
            first = set(cuts[0][0]) if config.epochs == 1 else set()
            later = [i for i, s in enumerate(samples) if s.teaches and i not in first]
            logp = learner.score_rows(learner.scorer, [samples[i].row for i in later])
            proximal = dict(zip(later, logp, strict=True))
        for cut in cuts:
            for minibatch in cut:
                self._update(minibatch, proximal)
        return self._vitals

    def _refer(self) -> Known:
        """Return what the reference says of every token, when there is one."""
        learner, samples = self._learner, self._samples
        if learner.reference is None:
            if learner.rule.kl != "off":
                raise RealnetError("a KL was asked for and no reference was taken: call refer()")
            return {}
        members = [i for i, sample in enumerate(samples) if len(sample.where)]
        logp = learner.score_rows(learner.reference, [samples[i].row for i in members])
        return dict(zip(members, logp, strict=True))

    def _cut(self, count: int) -> list[list[int]]:
        """Deal `count` answers, in random order, into minibatches of nearly equal size."""
        order = torch.randperm(count, generator=self._learner.rng).tolist()
        n = self._learner.config.minibatches
        return [order[i * count // n : (i + 1) * count // n] for i in range(n)]

    def _update(self, minibatch: list[int], proximal: Known) -> None:
        """Do one optimizer update; micro-batches do not change its gradient."""
        learner, samples = self._learner, self._samples
        by = learner.rule.normalise_by
        scales, divisor = token_scale(
            [samples[i].counted for i in minibatch],
            learner.rule.normalise,
            by if isinstance(by, int) else learner.policy.max_tokens,
        )
        share = {i: scale / divisor for i, scale in zip(minibatch, scales, strict=True)}
        members = [i for i in minibatch if samples[i].teaches]
        if not members:
            return
        cuts = learner.parts([samples[i].row for i in members])
        chosen = [[members[k] for k in cut] for cut in cuts]
        parts = [make_part(samples, c, share, proximal, self._reference) for c in chosen]
        total, norm = learner.apply(parts, self._vitals)
        self._vitals.add_update(total, norm)
