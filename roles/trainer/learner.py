"""The learner: groups of scored answers in, better weights and vital signs out.

A blocking library with no actor, no clock and no wire in it; the trainer calls it in its compute
thread. It owns the model, the optimizer and one random generator, and nothing else has state: a
learner that was saved and loaded continues bit for bit (on one thread).

A step is `epochs` passes over `minibatches` updates. Answers whose advantage is zero, or whose
tokens are all too old, count in every mean but are never run through the model: their gradient is
exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from realnet.roles.algorithms.batching import micro_batches
from realnet.roles.algorithms.losses import TokenLoss, decoupled_ppo, ppo, token_scale
from realnet.roles.algorithms.presets import expand
from realnet.roles.messages import Group, Version
from realnet.roles.models.build import build_model, export_hf, load_named_weights, named_weights
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer import learner_files
from realnet.roles.trainer.learner_batch import Age, Sample, make_batch
from realnet.roles.trainer.learner_config import LearnerConfig, NonFinite
from realnet.roles.trainer.learner_optimizers import AdamW, Named
from realnet.roles.trainer.learner_pass import token_logprobs
from realnet.roles.trainer.learner_vitals import Vitals
from realnet.roles.trainer.learner_warm_start import Demos, Report, warm_start

__all__ = ["Demos", "Learner", "LearnerConfig", "NonFinite", "Report"]

Proximal = dict[int, torch.Tensor]


class Learner:
    """One policy's model in training."""

    def __init__(
        self, policy: Policy, config: LearnerConfig, tokenizer: Tokenizer, base: Path
    ) -> None:
        self.policy = policy
        self.config = config
        self.rule = expand(config.algorithm, config.loss)
        self.tokenizer = tokenizer
        self.model = _model(policy, config, tokenizer, base)
        parameters = dict(self.model.named_parameters())
        self.named: Named = [(name, parameters[name]) for name, _ in named_weights(self.model)]
        self.optimizer = AdamW(
            self.named, config.lr, config.betas, config.epsilon, config.weight_decay
        )
        self.rng = torch.Generator().manual_seed(policy.seed)
        self.steps = 0

    def warm_start(self, demos: Demos, report: Report) -> None:
        """Train on demonstrations as `config.warm_start` says; `steps = 0` does nothing."""
        warm_start(self.model, self.named, self.config.warm_start, self.tokenizer, demos, report)
        self.optimizer.refresh()

    def step(self, groups: Sequence[Group], current: Version, age: Age) -> dict[str, float]:
        """Train on one batch and return its vital signs.

        `current` is the version that this step starts from; `age(version)` tells how many steps
        older a version is. Tokens older than the policy's `max_age` carry no gradient, unless
        `over_age = "allow"`. Raises NonFinite: weights, optimizer and random state are then as
        before, and the caller still has the batch.
        """
        oldest = self.policy.max_age if self.policy.over_age == "mask" else None
        batch = make_batch(groups, age, oldest, self.rule.advantage)
        before = self._copy_state()
        try:
            vitals = self._train(batch.samples)
        except NonFinite as error:
            self._put_back(before)
            raise NonFinite(
                f"{current}: {error}. The step is undone. If it comes back, lower the trainer's "
                "lr, and look at the logprobs that the generators send"
            ) from None
        self.steps += 1
        return {**batch.signs, **vitals.signs()}

    def weights(self) -> list[tuple[str, npt.NDArray[np.generic], str]]:
        """Return (name, array, dtype) of every weight: "float32", or "bfloat16" as its uint16 bits.

        The arrays of a model on the CPU are its memory: copy them before the next step.
        """
        result: list[tuple[str, npt.NDArray[np.generic], str]] = []
        for name, weight in self.named:
            there = weight.detach().cpu().contiguous()
            dtype = str(there.dtype).removeprefix("torch.")
            bits = there.view(torch.uint16) if there.dtype == torch.bfloat16 else there
            result.append((name, bits.numpy(), dtype))
        return result

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on."""
        state = {**self.optimizer.state(), "generator": self.rng.get_state()}
        learner_files.write(folder, dict(self.named), state, {"steps": self.steps})

    def load(self, folder: Path) -> None:
        """Continue where `save` left off; raises CheckpointError."""
        weights, state, scalars = learner_files.read(folder)
        learner_files.check_weights(folder, weights, dict(self.named))
        load_named_weights(self.model, weights)
        self.optimizer.restore(state)
        self.rng.set_state(state["generator"])
        self.steps = scalars["steps"]

    def export(self, folder: Path) -> None:
        """Write a folder that others load as a Hugging Face model."""
        export_hf(self.model, self.tokenizer, folder)

    # ---------------------------------------------------------------- one step

    def _train(self, samples: list[Sample]) -> Vitals:
        """Do all updates of a step."""
        vitals = Vitals()
        config = self.config
        cuts = [self._cut(len(samples)) for _ in range(config.epochs)]
        proximal: Proximal = {}
        if self.rule.decoupled and config.epochs * config.minibatches > 1:
            # the first update's proximal policy is the policy itself: no pass for its answers
            first = set(cuts[0][0]) if config.epochs == 1 else set()
            self._proximal(samples, [i for i in range(len(samples)) if i not in first], proximal)
        for cut in cuts:
            for minibatch in cut:
                self._update(samples, minibatch, proximal, vitals)
        return vitals

    def _cut(self, count: int) -> list[list[int]]:
        """Deal `count` answers, in random order, into minibatches of nearly equal size."""
        order = torch.randperm(count, generator=self.rng).tolist()
        n = self.config.minibatches
        return [order[i * count // n : (i + 1) * count // n] for i in range(n)]

    @torch.no_grad()
    def _proximal(self, samples: list[Sample], members: list[int], into: Proximal) -> None:
        """Remember the log-probabilities of the policy as it is now."""
        members = [i for i in members if samples[i].teaches]
        for part in self._parts(samples, members):
            logp = self._logprobs([samples[i] for i in part])
            lengths = [len(samples[i].where) for i in part]
            into.update(zip(part, torch.split(logp, lengths), strict=True))

    def _update(
        self, samples: list[Sample], minibatch: list[int], proximal: Proximal, vitals: Vitals
    ) -> None:
        """Do one optimizer update; micro-batches do not change its gradient."""
        scales, divisor = token_scale(
            [samples[i].counted for i in minibatch], self.rule.normalise, self.policy.max_tokens
        )
        scale = dict(zip(minibatch, scales, strict=True))
        members = [i for i in minibatch if samples[i].teaches]
        if not members:
            return
        total = 0.0
        for part in self._parts(samples, members):
            chosen = [samples[i] for i in part]
            logp = self._logprobs(chosen)
            behave = torch.from_numpy(np.concatenate([s.behave for s in chosen])).to(logp.device)
            near = torch.cat([proximal[i] for i in part]) if part[0] in proximal else logp.detach()
            worth = _spread([s.advantage for s in chosen], chosen, logp)
            share = _spread([scale[i] / divisor for i in part], chosen, logp)
            terms = self._loss(logp, near, behave, worth)
            loss = (terms.loss * share).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.collect()
            total += float(loss.detach())
            vitals.add(terms, logp, behave)
        norm = self.optimizer.clip(self.config.grad_clip)
        if not np.isfinite([total, norm]).all():
            raise NonFinite(f"loss {total}, gradient norm {norm}")
        self.optimizer.update()
        vitals.add_update(total, norm)

    def _loss(
        self,
        logp: torch.Tensor,
        proximal: torch.Tensor,
        behave: torch.Tensor,
        advantage: torch.Tensor,
    ) -> TokenLoss:
        rule = self.rule
        if not rule.decoupled:
            return ppo(logp, behave, advantage, rule.clip)
        return decoupled_ppo(
            logp, proximal, behave, advantage, rule.clip, rule.weight_cap, rule.weight_mode
        )

    def _parts(self, samples: list[Sample], members: list[int]) -> list[list[int]]:
        """Cut answers into micro-batches."""
        lengths = [samples[i].width for i in members]
        cut = micro_batches(lengths, self.config.micro_tokens)
        return [[members[i] for i in part] for part in cut]

    def _logprobs(self, chosen: list[Sample]) -> torch.Tensor:
        rows = [(s.ids, s.where) for s in chosen]
        return token_logprobs(self.model, rows, self.policy.temperature)

    # ---------------------------------------------------------------- undoing a step

    def _copy_state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
        """Copy what a failed step must give back. One update checks before it applies: no copy."""
        rng = self.rng.get_state()
        if self.config.epochs * self.config.minibatches == 1:
            return {}, {}, rng
        weights = {n: w.detach().clone() for n, w in self.named}
        return weights, {n: t.clone() for n, t in self.optimizer.state().items()}, rng

    @torch.no_grad()
    def _put_back(
        self, before: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]
    ) -> None:
        weights, state, rng = before
        for name, weight in self.named:
            if name in weights:
                weight.copy_(weights[name])
        if weights:
            self.optimizer.restore(state)
        self.optimizer.forget()
        self.rng.set_state(rng)


def _model(policy: Policy, config: LearnerConfig, tokenizer: Tokenizer, base: Path) -> Any:
    """Build the model where it will be trained, without dropout: all passes must agree."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(config.threads)
    model: Any = build_model(policy, tokenizer, base, policy.seed)
    return model.to(device).eval()


def _spread(values: list[float], samples: list[Sample], like: torch.Tensor) -> torch.Tensor:
    """Repeat one value a sample over its tokens. Shape: [sum T]."""
    array = np.repeat(np.array(values, dtype=np.float32), [len(s.where) for s in samples])
    return torch.from_numpy(array).to(like.device)
