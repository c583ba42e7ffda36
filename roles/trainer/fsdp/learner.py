"""The leader's learner over a gang: decides as the plain one does, and has all ranks compute.

The warm start is done here alone, on the whole model, before it is cut: a new small model needs no
gang. From then on rank 0 holds its shard like the others.

Knows crew and shard; knows nothing of actors. Called by the trainer of rank 0, in its compute
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from realnet.errors import CheckpointError
from realnet.roles.messages import Manifest, SlotOpened, Version
from realnet.roles.models.build import DTYPES, export_hf, load_named_weights
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer import learner_files, learner_lora, learner_reference
from realnet.roles.trainer.fsdp import meeting
from realnet.roles.trainer.fsdp.crew import Crew
from realnet.roles.trainer.fsdp.deal import deal
from realnet.roles.trainer.fsdp.records import Order, Report, Written
from realnet.roles.trainer.fsdp.shard import Shard, Take
from realnet.roles.trainer.learner import Learner, Undone
from realnet.roles.trainer.learner_config import START, LearnerConfig, NonFinite
from realnet.roles.trainer.learner_part import Floats, Part, Row, rows_part
from realnet.roles.trainer.learner_pass import Scorer, width
from realnet.roles.trainer.learner_vitals import Vitals
from realnet.roles.trainer.outgoing import Weights, What, as_array
from realnet.roles.trainer.publisher import Elsewhere
from realnet.roles.weights import digest, layout
from realnet.roles.weights.digests import Sum


class ShardedLearner(Learner):
    """One policy's model in training, cut over the ranks of `crew`."""

    def __init__(
        self, policy: Policy, config: LearnerConfig, tokenizer: Tokenizer, base: Path,
        horizon: int, crew: Crew,
    ) -> None:  # fmt: skip
        self._crew = crew
        self._shard = Shard(policy, config, tokenizer, base, 0, crew.ranks)
        self._is_cut = False
        store, host, port = meeting.open_store(crew.ranks)
        self._move(Order("meet", host=host, port=port), lambda: self._shard.meet(store))
        super().__init__(policy, config, tokenizer, base, horizon)
        self._shard.rng = self.rng

    def _make(self) -> Any:
        model = self._plain()
        if self.config.lora.rank:
            learner_lora.add_adapters(model, self.config.lora, self.policy.seed)
        return model

    def _plain(self) -> Any:
        return self._shard.whole_model()

    def _spread(self) -> None:
        """Cut the model, once."""
        if self._is_cut:
            return
        whole, self.model = self.model, None
        self.named, self.scorer = [], None  # type: ignore[assignment]
        self._move(Order("spread"), lambda: self._shard.spread(whole))
        shard = self._shard
        self.model, self.scorer, self.named = shard.model, shard.scorer, shard.named
        self.optimizer = shard.optimizer
        self._is_cut = True

    def refer(self, folder: Path) -> None:
        """Take the reference that the table names, and cut it over the ranks."""
        name = self.config.reference
        if name == START and self.steps == 0:
            learner_reference.keep_start(folder, self._whole())
        if name:
            self._move(Order("refer"), lambda: self._shard.refer(self._whole_reference(folder)))
            self.reference = self._shard.reference
        self._spread()

    def _whole_reference(self, folder: Path) -> Any:
        name = self.config.reference
        whole = self._plain()
        if name == START:
            return learner_reference.read_start(folder, whole)
        fine = msgspec.structs.replace(self.policy, dtype="fp32")
        return learner_reference.from_folder(whole, fine, name, self.tokenizer, self.base)

    # ---------------------------------------------------------------- weights out

    def weights(self) -> Weights:
        """Return (name, array, dtype) of every weight, whole, in the policy's dtype."""
        result: Weights = []
        dtype = DTYPES[self.policy.dtype]
        self._gather(lambda name, weight: result.append((name, *as_array(weight.to(dtype)))))
        return result

    def outgoing(self, what: What) -> Weights:
        """Return what goes out, brought together here: where a rank is on another host."""
        if what == "whole" or not self.config.lora.rank:
            return self.weights()
        found: Weights = []
        if what == "version":
            self._gather(
                None, lambda n, w: found.append((learner_lora.adapter_name(n), *as_array(w)))
            )
            return found
        dtypes = {t.name: t.dtype for t in self.plan(Version("", 0, 0), "base").tensors}

        def take(name: str, weight: torch.Tensor) -> None:
            found.append((name, *as_array(weight.to(getattr(torch, dtypes[name])))))

        self._gather(take, merged=False)
        return found

    def plan(self, version: Version, what: What) -> Manifest:
        """Return how a version of the cut model, or its base, lies in memory."""
        self._spread()
        return self._shard.outgoing.plan(version, what)

    def base_key(self) -> str:
        """Return what tells this base from others: what every rank has of it, summed up."""
        self._spread()
        mine, reports = self._move(Order("sum_up"), self._shard.outgoing.sum_up_base)
        return digest("".join([mine, *(report.digest for report in reports)]).encode())

    def whole_digest(self, version: Version) -> str:
        """Return the digest of the merged weights; they come together one after the other."""
        self._spread()
        dtype = DTYPES[self.policy.dtype]
        names = ((n, w.shape) for n, w in learner_lora.frozen(self._shard.model))
        text = str(dtype).removeprefix("torch.")
        total = Sum(layout(version, ((learner_lora.plain_name(n), text, s) for n, s in names)))
        self._gather(lambda name, weight: total.add(name, as_array(weight.to(dtype))[0]))
        return total.sealed().digest

    def publish(self, version: Version, opened: SlotOpened, what: What) -> list[Manifest]:
        """Have every rank write its slices into an open slot; return what each wrote.

        Raises Elsewhere where a rank does not share the slot's memory.
        """
        order = Order("publish", version=version, opened=opened, base=what == "base")
        mine, reports = self._move(order, lambda: self._shard.outgoing.write(version, opened, what))
        parts = []
        for report in (mine, *reports):
            if report.part is None:
                raise Elsewhere(report.error)
            parts.append(report.part)
        return parts

    def export(self, folder: Path) -> None:
        """Write a folder that others load as a Hugging Face model."""
        model = self._plain()
        adapters: dict[str, torch.Tensor] = {}
        load_named_weights(model, self._whole(adapters))
        whole = model.to(DTYPES[self.policy.dtype])
        if self.config.lora.rank:
            export_hf(whole, self.tokenizer, folder, self._write_adapters(adapters))
        else:
            export_hf(whole, self.tokenizer, folder)

    def _whole(self, adapters: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """Return every weight of the policy, whole and on the CPU; put its adapters into those."""
        if not self._is_cut:
            return dict(self.published())
        whole: dict[str, torch.Tensor] = {}
        self._gather(
            lambda name, weight: whole.update({name: weight.cpu()}),
            None if adapters is None else lambda name, w: adapters.update({name: w.cpu()}),
        )
        return whole

    def _gather(
        self, take: Take | None, take_adapter: Take | None = None, *, merged: bool = True
    ) -> None:
        self._spread()
        self._move(Order("gather"), lambda: self._shard.gather(take, take_adapter, merged=merged))

    # ---------------------------------------------------------------- checkpoints

    def stage(self, folder: Path) -> None:
        """Copy all ranks' state aside and begin to write it; then `finish`, in any thread."""
        self._spread()
        folder.mkdir(parents=True, exist_ok=True)
        state = {"generator": self.rng.get_state()}
        learner_files.write_small(folder, state, {**self._scalars(), "ranks": self._crew.ranks})
        base = bool(self.config.lora.rank) and self.has_own_base
        order = Order("stage", folder=str(folder), base=base)
        self._move(order, lambda: self._shard.stage(folder, base=base))

    def finish(self, folder: Path) -> tuple[Written, ...]:
        """Wait until all ranks' files are durable; return them. Raises OSError."""
        order = Order("write", folder=str(folder))
        mine, reports = self._crew.move(order, lambda: _tried(self._shard, folder))
        reports = [mine, *reports]
        for report in reports:
            if report.error:
                raise OSError(report.error)
        return tuple(file for report in reports for file in report.files)

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on, and wait for it."""
        self.stage(folder)
        self.finish(folder)

    def load(self, folder: Path) -> None:
        """Continue where any number of ranks left off; raises CheckpointError."""
        state, scalars = learner_files.read_small(folder)
        if "ranks" not in scalars:
            raise CheckpointError(
                f'{folder} was written by backend = "plain", which keeps the model whole: resume '
                "with that, or start a new run from its export"
            )
        self._read(folder)
        self.rng.set_state(state["generator"])
        self.steps = scalars["steps"]

    def adopt(self, folder: Path) -> str:
        """Begin with the weights that another learner saved; return what came of its moments.

        Counters and random state stay those of a beginning. Raises CheckpointError when the
        weights do not fit.
        """
        _, scalars = learner_files.read_small(folder)
        if "ranks" not in scalars or self.config.lora.rank or "lora_rank" in scalars:
            weights, _, _ = learner_files.read(folder)
            fine = {name: weight.float() for name, weight in weights.items()}
            self._adopt(folder / learner_files.MODEL, fine, scalars)
            if "ranks" in scalars:
                return "with moments of its own, since adapters are or were trained"
            return "with moments of its own, since the other's model was not cut over ranks"
        self._read(folder)
        return "with its optimizer's moments"

    def _read(self, folder: Path) -> None:
        self._spread()
        order = Order("read", folder=str(folder))
        self.has_own_base, _ = self._move(order, lambda: self._shard.read(folder))

    # ---------------------------------------------------------------- where the model is

    def parts(self, rows: Sequence[Row]) -> list[list[int]]:
        rounds = deal(self.scorer.parts(rows), [width(row) for row in rows], self._crew.ranks)
        return [part for one in rounds for part in one if part]  # empty ones stand at the end

    def score_rows(
        self, scorer: Scorer, rows: Sequence[Row], temperature: float = 0.0
    ) -> list[Floats]:
        cuts = self.parts(rows)
        if not cuts:
            return []
        dealt = self._dealt([rows_part([rows[i] for i in cut]) for cut in cuts])
        reference = scorer is self.reference
        orders = [
            Order("score", parts=mine, reference=reference, temperature=temperature)
            for mine in dealt[1:]
        ]
        own, reports = self._move(
            orders,
            lambda: self._shard.score(dealt[0], reference=reference, temperature=temperature),
        )
        ranks = self._crew.ranks
        found = [iter(own), *(iter(report.logp) for report in reports)]
        result: list[Floats] = [np.zeros(0)] * len(rows)
        for k, cut in enumerate(cuts):
            for i in cut:
                result[i] = next(found[k % ranks])
        return result

    def _mark(self, updates: int) -> Undone:
        self._move(Order("mark", updates=updates), lambda: self._shard.mark(updates))
        return _All(lambda: self._move(Order("put_back"), self._shard.put_back))

    def apply(self, parts: Sequence[Part], vitals: Vitals) -> tuple[float, float]:
        dealt, lr = self._dealt(parts), self.optimizer.lr
        orders = [Order("update", parts=mine, lr=lr) for mine in dealt[1:]]
        own, reports = self._move(orders, lambda: self._shard.update(dealt[0], lr))
        for report in (own, *reports):
            vitals.join(report.sums, report.tokens, report.largest)
        if not np.isfinite([own.loss, own.norm]).all():
            raise NonFinite(f"loss {own.loss}, gradient norm {own.norm}")
        return own.loss, own.norm

    def _dealt(self, parts: Sequence[Part]) -> list[tuple[Part | None, ...]]:
        """Return the parts of each rank, one for every round."""
        ranks = self._crew.ranks
        rounds = -(-len(parts) // ranks)
        padded = [*parts, *[None] * (rounds * ranks - len(parts))]
        return [tuple(padded[rank::ranks]) for rank in range(ranks)]

    def _move(self, order: Order | Sequence[Order], mine: Callable[[], Any]) -> Any:
        return self._crew.move(order, mine)


class _All:
    """Returns all ranks to what they marked."""

    def __init__(self, put_back: Callable[[], Any]) -> None:
        self._put_back = put_back

    def put_back(self) -> None:
        self._put_back()


def _tried(shard: Shard, folder: Path) -> Report:
    try:
        return Report(files=shard.write(folder))
    except OSError as error:
        return Report(error=str(error))
