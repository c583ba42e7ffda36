"""The learner: groups of scored answers in, better weights and vital signs out.

A blocking library with no actor, no clock and no wire in it; the trainer calls it in its compute
thread. It owns the model, the optimizer and one random generator, and nothing else has state: a
learner that was saved and loaded continues bit for bit (on one thread).

    groups -> lay_out -> reference logprobs -> give_credit -> epochs x minibatches of updates

How a step is cut into updates is in `learner_step.py`, what goes out in `outgoing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from realnet.errors import CheckpointError
from realnet.roles.checkpoints.origin import RUN
from realnet.roles.messages import Canary, Group, Manifest, Version
from realnet.roles.models.blocks import recompute_blocks
from realnet.roles.models.build import build_model, export_hf, load_named_weights
from realnet.roles.models.native.block import use_native_blocks, why_plain
from realnet.roles.models.reference import NEW
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer import learner_files, learner_lora, learner_reference
from realnet.roles.trainer.canary import make_canary
from realnet.roles.trainer.device import check_device
from realnet.roles.trainer.learner_batch import Age, give_credit, lay_out
from realnet.roles.trainer.learner_config import START, LearnerConfig, NonFinite
from realnet.roles.trainer.learner_optimizers import AdamW, Named
from realnet.roles.trainer.learner_part import Floats, Part, Row
from realnet.roles.trainer.learner_pass import Scorer
from realnet.roles.trainer.learner_run import run_part
from realnet.roles.trainer.learner_step import Step
from realnet.roles.trainer.learner_undo import Undo
from realnet.roles.trainer.learner_vitals import Vitals
from realnet.roles.trainer.learner_warm_start import Demos, Report, warm_start
from realnet.roles.trainer.outgoing import Outgoing, Weights, What

_ANY = Version("", 0, 0)  # where only names and shapes count

__all__ = ["Demos", "Learner", "LearnerConfig", "NonFinite", "Report"]


class Undone(Protocol):
    """What can return to the state before a step."""

    def put_back(self) -> None: ...


class Learner:
    """One policy's model in training. `horizon` is the step at which a schedule of lr ends."""

    def __init__(
        self,
        policy: Policy,
        config: LearnerConfig,
        tokenizer: Tokenizer,
        base: Path,
        horizon: int = 0,
    ) -> None:
        self.policy = policy
        self.config = config
        self.rule = config.rule
        self.tokenizer = tokenizer
        self.base = base
        self.horizon = horizon
        self.model = self._make()
        self.scorer = self._scorer(self.model)
        self.reference: Scorer | None = None
        self.named: Named = [(n, w) for n, w in self.model.named_parameters() if w.requires_grad]
        self.has_own_base = policy.model.startswith(
            (NEW, RUN)
        )  # with adapters: frozen weights of its own
        self.optimizer = AdamW(
            self.named, config.lr, config.betas, config.epsilon, config.weight_decay
        )
        self.rng = torch.Generator().manual_seed(policy.seed)
        self.steps = 0
        self.tokens = tokenizer.digest()

    def warm_start(self, demos: Demos, report: Report) -> None:
        """Train on demonstrations as `config.warm_start` says; `steps = 0` does nothing."""
        config, about = self.config.warm_start, (self.tokenizer, demos, report)
        if self.config.lora.rank:
            with learner_lora.base_in_training(self.model) as base:
                warm_start(self.scorer, base, config, *about)
            self.has_own_base = True
        else:
            warm_start(self.scorer, self.named, config, *about)
        self.optimizer.refresh()

    def refer(self, folder: Path) -> None:
        """Take the reference that the table names; a learner without one does nothing.

        "start" is kept in `folder`: a learner at step 0 writes it there, a later one reads it.
        Raises CheckpointError, ConfigError, and OSError on a full disk.
        """
        reference = self.config.reference
        if not reference:
            return
        made = self._plain().to(next(self.model.parameters()).dtype)
        if reference != START:
            made = learner_reference.from_folder(
                made, self.policy, reference, self.tokenizer, self.base
            )
        else:
            if self.steps == 0:
                learner_reference.keep_start(folder, dict(self.published()))
            made = learner_reference.read_start(folder, made)
        self.reference = self._scorer(made)

    def step(self, groups: Sequence[Group], current: Version, age: Age) -> dict[str, float]:
        """Train on one batch and return its vital signs.

        `current` is the version that this step starts from; `age(version)` tells how many steps
        older a version is. Tokens older than the policy's `max_age` carry no gradient, unless
        `over_age = "allow"`. Raises NonFinite: weights, optimizer and random state are then as
        before, and the caller still has the batch.
        """
        config = self.config
        oldest = None if self.policy.over_age == "allow" else self.policy.max_age
        batch = lay_out(groups, age, oldest, self.rule, self.policy.max_tokens)
        updates = config.epochs * config.minibatches
        undo = self._mark(updates)
        try:
            step = Step(self, batch.samples)
            give_credit(batch, self.rule, step.penalties())
            vitals = step.train()
        except NonFinite as error:
            undo.put_back()
            raise NonFinite(
                f"{current}: {error}. The step is undone. If it comes back, lower the trainer's "
                "lr, and look at the logprobs that the generators send"
            ) from None
        self.steps += 1
        return {**batch.signs, **vitals.signs(), "lr": self.optimizer.lr}

    def score(self, rows: Sequence[Row], temperature: float = 0.0) -> list[npt.NDArray[np.float32]]:
        """Return the log-probabilities that the policy, as it is now, gives to chosen tokens.

        Each row is (ids [L], where [T]); temperature 0 is the policy's. Changes nothing.
        """
        scored = self.score_rows(self.scorer, rows, temperature)
        return [logp.astype(np.float32) for logp in scored]

    def canary(self, version: Version) -> Canary:
        """Return tokens, and what the policy gives them, for generators to prove themselves by."""
        return make_canary(self, version)

    def published(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Return every weight of the policy, by the names of its Hugging Face folder.

        Adapters are merged into what they stand beside.
        """
        return self._outgoing.named("whole")

    def weights(self) -> Weights:
        """Return (name, array, dtype) of every weight: "float32", or "bfloat16" as its uint16 bits.

        The arrays of a model on the CPU are its memory: copy them before the next step.
        """
        return self.outgoing("whole")

    def outgoing(self, what: What) -> Weights:
        """Return what goes out, as `weights` does: a version, or the base of versions."""
        return self._outgoing.arrays(what)

    def live(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Return the weights of a version where they are: copy them before the next step."""
        return self._outgoing.named("version")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def plan(self, version: Version, what: What) -> Manifest:
        """Return how what goes out lies in memory."""
        return self._outgoing.plan(version, what)

    def base_key(self) -> str:
        """Return what tells this base from others."""
        return self._outgoing.digest(_ANY, "base")

    def whole_digest(self, version: Version) -> str:
        """Return the digest of the merged weights, as whoever merges them has it."""
        return self._outgoing.digest(version, "whole")

    @property
    def _outgoing(self) -> Outgoing:
        return Outgoing(self.model, self.config.lora)

    def kept(self) -> dict[str, torch.Tensor]:
        """Return the weights that a checkpoint holds.

        With adapters these alone, and the frozen ones where they are not those of the policy's
        folder.
        """
        base = learner_lora.frozen(self.model) if self.config.lora.rank else []
        return {**dict(self.named), **(dict(base) if self.has_own_base else {})}

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on."""
        state = {**self.optimizer.state(), "generator": self.rng.get_state()}
        learner_files.write(folder, self.kept(), state, self._scalars())

    def load(self, folder: Path) -> None:
        """Continue where `save` left off; raises CheckpointError."""
        weights, state, scalars = learner_files.read(folder)
        if "ranks" in scalars:  # of a gang
            dtype = next(self.model.parameters()).dtype
            weights, state = learner_files.as_coarse(weights, state, dtype)
        if self.config.lora.rank:
            path = folder / learner_files.MODEL
            self.has_own_base = learner_lora.take(path, weights, self.model)
        else:
            learner_files.check_weights(folder / learner_files.MODEL, weights, dict(self.named))
            load_named_weights(self.model, weights)
        self.optimizer.restore(state)
        self.rng.set_state(state["generator"])
        self.steps = scalars["steps"]

    def adopt(self, folder: Path) -> str:
        """Begin with the weights that another learner saved; return what came of its moments.

        Counters and random state stay those of a beginning. Moments of the optimizer come along
        when they are of the same kind. Raises CheckpointError when the weights do not fit.
        """
        weights, state, scalars = learner_files.read(folder)
        dtype = next(self.model.parameters()).dtype
        cast = {name: weight.to(dtype) for name, weight in weights.items()}
        merged = self._adopt(folder / learner_files.MODEL, cast, scalars)
        self.optimizer.begin_anew()
        if merged:
            return "with moments of its own, since its adapters are of another rank, alpha or place"
        own = dict(self.named)
        if own.keys() - weights.keys():
            return "with moments of its own, since something else is trained"
        if any(weights[name].dtype != own[name].dtype for name in own):
            return "with moments of its own, since the weights are of another dtype"
        try:
            self.optimizer.restore(state)
        except CheckpointError:
            self.optimizer.begin_anew()
            return "with moments of its own, since the other's optimizer was another"
        return "with its optimizer's moments"

    def _adopt(
        self, path: Path, found: Mapping[str, torch.Tensor], scalars: Mapping[str, int]
    ) -> bool:
        """Take another learner's weights, of the model's dtype. Raises CheckpointError.

        Tells whether adapters of another kind were merged into the frozen weights.
        """
        lora = self.config.lora
        if lora.rank:
            merges = learner_lora.other_adapters(self.model, found, scalars, lora)
            if merges:
                base = {learner_lora.plain_name(n): w for n, w in learner_lora.frozen(self.model)}
                found = learner_lora.without_adapters(path, found, base, scalars)
            learner_lora.take(path, found, self.model)
            self.has_own_base = True
            return merges
        plain = learner_lora.without_adapters(path, found, dict(self.named), scalars)
        learner_files.check_weights(path, plain, dict(self.named))
        load_named_weights(self.model, plain)
        return False

    def export(self, folder: Path) -> None:
        """Write a folder that others load as a Hugging Face model, its adapters in `adapter/`."""
        if not self.config.lora.rank:
            export_hf(self.model, self.tokenizer, folder)
            return
        whole = self._plain()
        load_named_weights(whole, dict(self.published()))
        export_hf(whole, self.tokenizer, folder, self._write_adapters(dict(self.named)))

    def _write_adapters(self, adapters: Mapping[str, torch.Tensor]) -> Callable[[Path], None]:
        about = (adapters, self.config.lora, self.policy.model)
        return lambda folder: learner_lora.write_adapters(*about, folder / "adapter")

    def _scalars(self) -> dict[str, int]:
        lora = self.config.lora
        more = {"lora_rank": lora.rank, "lora_alpha": lora.alpha} if lora.rank else {}
        return {"steps": self.steps, **more}

    # ---------------------------------------------------------------- where the model is

    def parts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Cut rows into micro-batches; return positions in `rows`."""
        return self.scorer.parts(rows)

    def score_rows(
        self, scorer: Scorer, rows: Sequence[Row], temperature: float = 0.0
    ) -> list[Floats]:
        """Return the log-probabilities of each row. Shapes: [T_i]."""
        return [logp.double().cpu().numpy() for logp in scorer.score(rows, temperature)]

    def apply(self, parts: Sequence[Part], vitals: Vitals) -> tuple[float, float]:
        """Update once with these micro-batches; return loss and gradient norm, or raise."""
        optimizer = self.optimizer
        total = sum(
            run_part(self.scorer, self.rule, part, vitals, optimizer.collect, 1) for part in parts
        )
        norm = optimizer.clip(self.config.grad_clip)
        if not np.isfinite([total, norm]).all():
            raise NonFinite(f"loss {total}, gradient norm {norm}")
        optimizer.update()
        return total, norm

    def _mark(self, updates: int) -> Undone:
        """Remember the state before a step of so many updates."""
        return Undo(self.named, self.optimizer, self.rng, updates=updates)

    def _make(self) -> Any:
        """Build the model where it will be trained, without dropout: all passes must agree."""
        model: Any = self._plain()
        if self.config.activations == "recompute":
            recompute_blocks(model)
        if self.config.lora.rank:
            learner_lora.add_adapters(model, self.config.lora, self.policy.seed)
        return model

    def _plain(self) -> Any:
        """Build the policy's model without adapters, where it will be run."""
        device = self.config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(device)
        if device == "cpu":
            torch.set_num_threads(self.config.threads)
        model: Any = build_model(self.policy, self.tokenizer, self.base, self.policy.seed)
        return model.to(device).eval()

    def _scorer(self, model: Any) -> Scorer:
        config = self.config
        scorer = Scorer(
            *(model, self.policy.temperature, config.rows, config.micro_tokens, config.autocast),
            config.attention,
        )
        here = scorer.packed and scorer.attention == "sdpa" and config.threads == 1
        if here and config.autocast == "off" and not why_plain(model):
            use_native_blocks(model)
            scorer.copied = False
        return scorer
