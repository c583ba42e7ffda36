"""One rank's part of a policy in training: a cut model, its optimizer, and how both are run.

Every method is a move that all ranks make together, in one order, with what the leader gave each of
them. A rank that has nothing to run in a pass still makes the pass, on a token that counts nothing:
the others wait for its part of every block.

Whether a step is taken is decided by numbers that are the same on all ranks: loss and gradient norm
of all together. Two runs with as many ranks and the same batches give the same bits on the CPU.

Knows torch.distributed through `meeting` and `sharded`; knows nothing of actors or groups. Called
by the leader's crew and by every follower.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh

from realnet.errors import RealnetError, ensure
from realnet.roles.models.blocks import recompute_blocks
from realnet.roles.models.build import build_empty, build_model
from realnet.roles.models.packed_attention import can_pack, use_packed_attention
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Lora, Policy
from realnet.roles.trainer import learner_lora
from realnet.roles.trainer.fsdp import files, meeting, sharded
from realnet.roles.trainer.fsdp.outgoing import RankOutgoing
from realnet.roles.trainer.fsdp.records import Report, Written
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.learner_optimizers import AdamW, Named
from realnet.roles.trainer.learner_part import Floats, Part, Row
from realnet.roles.trainer.learner_pass import Scorer
from realnet.roles.trainer.learner_run import run_part
from realnet.roles.trainer.learner_undo import Undo
from realnet.roles.trainer.learner_vitals import Vitals

Take = Callable[[str, torch.Tensor], None]
_IDLE: Row = (np.zeros(2, np.int64), np.ones(1, np.int64))


class Shard:
    """What one rank holds. `model` is rank 0's whole model until `spread` cuts it."""

    def __init__(
        self, policy: Policy, config: LearnerConfig, tokenizer: Tokenizer, base: Path, rank: int,
        ranks: int,
    ) -> None:  # fmt: skip
        self.policy = policy
        self.config = config
        self.tokenizer = tokenizer
        self.base = base
        self.rank = rank
        self.ranks = ranks
        self.device = meeting.rank_device(config.device)
        if self.device.type == "cpu":
            torch.set_num_threads(config.threads)
        self.mesh: DeviceMesh
        self.model: Any
        self.scorer: Scorer
        self.reference: Scorer | None = None
        self.named: Named = []
        self.optimizer: AdamW
        self.rng = torch.Generator()
        self.outgoing: RankOutgoing
        self._undo: Undo | None = None
        self._writing: Future[Any] | None = None

    # ---------------------------------------------------------------- the model

    def meet(self, store: Store) -> None:
        """Join the other ranks."""
        self.mesh = meeting.meet(
            store, self.rank, self.ranks, self.device, self.config.fsdp.collective
        )
        # A checkpoint is written beside the training: their exchanges must not meet.
        self._sums, self._files = (dist.new_group(backend="gloo") for _ in range(2))

    def spread(self, model: Any = None) -> None:
        """Cut the model over all ranks; rank 0 gives it, whole and on the CPU."""
        self.model = self._cut(model, adapters=bool(self.config.lora.rank))
        self.scorer = self._scorer(self.model)
        self.named = [(n, w) for n, w in self.model.named_parameters() if w.requires_grad]
        config = self.config
        self.outgoing = RankOutgoing(self.model, self.policy, config.lora, self.rank, self._sums)
        self.optimizer = AdamW(
            self.named, config.lr, config.betas, config.epsilon, config.weight_decay
        )

    def refer(self, model: Any = None) -> None:
        """Cut the reference over all ranks; rank 0 gives it, whole and on the CPU."""
        made = self._cut(model, adapters=False)
        made.requires_grad_(False)
        self.reference = self._scorer(made)

    def whole_model(self, policy: Policy | None = None) -> Any:
        """Return a whole model in fp32 on the CPU; for rank 0."""
        fine = msgspec.structs.replace(policy or self.policy, dtype="fp32")
        return build_model(fine, self.tokenizer, self.base, self.policy.seed)

    def _cut(self, model: Any, *, adapters: bool) -> Any:
        if self.rank:
            fine = msgspec.structs.replace(self.policy, dtype="fp32")
            model = build_empty(fine, self.tokenizer, self.base)
            if adapters:
                learner_lora.add_adapters(model, self.config.lora, self.policy.seed)
        ensure(model is not None, "rank 0 cuts a model that it has")
        if self.config.activations == "recompute":
            recompute_blocks(model)
        if self.config.rows == "packed" and can_pack(model):
            use_packed_attention(model)  # before the model is cut
        bf16 = self.policy.dtype == "bf16" or self.config.autocast == "bf16"
        return sharded.cut(model, self.mesh, self.device, bf16=bf16)

    def _scorer(self, model: Any) -> Scorer:
        config = self.config
        bf16 = self.policy.dtype == "bf16" or config.autocast == "bf16"
        return Scorer(
            *(model, self.policy.temperature, config.rows, config.micro_tokens, "off"),
            *(config.attention, bf16),
        )

    # ---------------------------------------------------------------- passes

    @torch.no_grad()
    def score(
        self, parts: Sequence[Part | None], *, reference: bool, temperature: float = 0.0
    ) -> list[Floats]:
        """Return the log-probabilities of every answer of this rank's parts, in their order.

        Temperature 0 is the policy's.
        """
        scorer = self.reference if reference else self.scorer
        assert scorer is not None
        result: list[Floats] = []
        for part in parts:
            rows = part.rows if part else [_IDLE]
            logp = scorer.logprobs(rows, temperature or None).double().cpu().numpy()
            if part:
                result += np.split(logp, np.cumsum(part.counts)[:-1])
        scorer.model.reshard()  # without a backward pass, what is in no block stays whole
        return result

    def mark(self, updates: int) -> None:
        """Remember the state, so that a step of so many updates can be undone."""
        self._undo = Undo(self.named, self.optimizer, self.rng, updates=updates)

    def put_back(self) -> None:
        """Return to what was marked."""
        ensure(self._undo is not None, "a step was marked before it is undone")
        if self._undo is not None:
            self._undo.put_back()

    def update(self, parts: Sequence[Part | None], lr: float) -> Report:
        """Update once with all ranks' parts, or, where loss or norm is not finite, not at all.

        Loss and norm are of all ranks; the rest is of this one.
        """
        vitals = Vitals()
        total = 0.0
        rule = self.config.rule
        for part in parts:
            if part:
                # the ranks' gradients are averaged, where their sum is wanted
                total += run_part(self.scorer, rule, part, vitals, self._collect, self.ranks)
            else:
                (self.scorer.logprobs([_IDLE]).sum() * 0.0).backward()  # type: ignore[no-untyped-call]
                self._collect()
        loss = torch.tensor(total, dtype=torch.float64)
        dist.all_reduce(loss, group=self._sums)
        norm = self.optimizer.clip(self.config.grad_clip)
        if np.isfinite([float(loss), norm]).all():
            self.optimizer.lr = lr
            self.optimizer.update()
        return Report(
            loss=float(loss), norm=norm, sums=vitals.sums, tokens=vitals.tokens,
            largest=vitals.largest,
        )  # fmt: skip

    def _collect(self) -> None:
        self.optimizer.collect()

    # ---------------------------------------------------------------- whole weights

    def gather(
        self,
        take: Take | None = None,
        take_adapter: Take | None = None,
        *,
        merged: bool = True,
    ) -> None:
        """Bring every weight together, one after the other; rank 0 takes each in fp32.

        Adapters are merged into what they stand beside, unless not `merged`; rank 0 may have them
        as they are, too.
        """
        self.model.reshard()
        every = self.model.named_parameters()
        for _, group in itertools.groupby(every, lambda item: learner_lora.beside(item[0])):
            whole = {name: sharded.whole_tensor(weight) for name, weight in group}
            for name, weight in whole.items():
                if take_adapter is not None and learner_lora.is_adapter(name):
                    take_adapter(name, weight)
            if take is not None:
                lora = self.config.lora if merged else Lora()
                for name, weight in learner_lora.merged(whole, lora):
                    take(name, weight)

    # ---------------------------------------------------------------- checkpoints

    def stage(self, folder: Path, *, base: bool = False) -> None:
        """Copy the state aside and begin to write it; the next step may be taken meanwhile.

        With `base`, the frozen weights beside adapters are written too.
        """
        state = {**self._weights(base=base), **self.optimizer.state()}
        self._writing = files.begin(folder, state, self._files)

    def write(self, folder: Path) -> tuple[Written, ...]:
        """Wait until this rank's files are durable, and return them. No move of all together."""
        writing, self._writing = self._writing, None
        if writing is None:
            raise RealnetError("a checkpoint is begun before it is finished")
        return files.finish(folder, self.rank, writing)

    def read(self, folder: Path) -> bool:
        """Take over the state that any number of ranks wrote. Raises CheckpointError.

        Tells whether frozen weights beside adapters were in it.
        """
        known = files.kinds(folder)
        base = bool(self.config.lora.rank) and any(
            name.startswith(files.WEIGHT) and not learner_lora.is_adapter(name) for name in known
        )
        weights = self._weights(base=base)
        files.check(folder, known, weights)
        state = {
            f"{key}/{name}": torch.zeros(()) if key == "step" else torch.zeros_like(weight.detach())
            for name, weight in self.named
            for key in ("exp_avg", "exp_avg_sq", "step")
            if f"{key}/{name}" in known
        }
        files.read(folder, {**weights, **state}, self._files)
        self.optimizer.restore(state)
        return base

    def _weights(self, *, base: bool) -> dict[str, torch.Tensor]:
        """Return what is trained, and with `base` what is frozen, by its name in a checkpoint."""
        named = [*self.named, *(learner_lora.frozen(self.model) if base else [])]
        return {f"{files.WEIGHT}{name}": weight.detach() for name, weight in named}
