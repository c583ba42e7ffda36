"""Saves the trainer: checkpoint, journal trimmed below it, and the books of the ledger.

Knows store, learner and checkpoints, not when to save. Called by the trainer, which holds still
meanwhile: no step is taken between the snapshot of the ledger and the learner's files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from realnet.errors import CheckpointError
from realnet.observe.record import read_rows
from realnet.roles.messages import Measured
from realnet.roles.tables import Save
from realnet.roles.trainer.best import Best, measured_rows, row_name
from realnet.roles.trainer.checkpoint import Checkpoints, Found
from realnet.roles.trainer.meta import read_meta
from realnet.roles.trainer.store import Store


class Surroundings(Protocol):
    """What saving needs of its actor."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def event(self, text: str, **fields: Any) -> None: ...


class Saves(Protocol):
    """A learner, as far as a checkpoint goes."""

    def save(self, folder: Path) -> None: ...


class Keeper:
    """The checkpoints and books of one trainer. `saved` is the step of the last checkpoint.

    `measured_every` is how many steps lie between two versions that are measured.
    """

    def __init__(
        self,
        actor: Surroundings,
        store: Store,
        learner: Saves,
        folder: Path,
        policy: Save,
        measured_every: int,
    ) -> None:
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=policy.keep)
        self.checkpoints.spared = self._spared
        self.best = Best(row_name(policy.best), measured_every) if policy.best else None
        self.saved = -1
        self._policy = policy
        self._measured_every = measured_every
        self._actor = actor
        self._store = store
        self._learner = learner
        self._folder = folder

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint is to be written after this step."""
        every = self._policy.every
        if self.best is not None and step % self._measured_every == 0:
            return True
        return step // every > self.saved // every

    def read_measured(self, path: Path) -> None:
        """Enter what metrics.jsonl says of versions that still are (blocking)."""
        if self.best is not None:
            self.best.add_all(measured_rows(read_rows(path), self.best.name))
            self.best.forget_after(self._store.step)

    def measured(self, news: Measured) -> None:
        """Enter what held-out problems say of a version."""
        lineage = self._store.lineage
        if self.best is None or self.best.name not in news.values:
            return
        if not lineage.abandoned(news.version, self._store.version):
            self.best.add(news.version.number, news.values[self.best.name])

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint; None when none was measured."""
        steps = [step for step, _ in self.checkpoints.all()]
        return self.best.of(steps) if self.best is not None else None

    async def save(self, elapsed_s: float) -> bool:
        """Write a checkpoint, if there is none of this step. False, and told, when it failed."""
        store, step = self._store, self._store.step
        if step == self.saved:
            return True
        store.trained_s = elapsed_s
        small = store.snapshot()
        try:
            await self._actor.compute(
                self.checkpoints.save, step, small, self._write, label="checkpoint"
            )
        except CheckpointError as error:
            self._actor.event(f"{error}. It is tried again after the next step", step=step)
            return False
        self.saved = step
        await store.journal.rotate()
        if self._policy.journal == "all":
            return True
        needed = await self._actor.compute(self._oldest_needed, label="checkpoint")
        await store.journal.trim(needed)
        return True

    async def close_books(self) -> None:
        """Check the ledger, write it to ledger.json, and tell its line. Raises LedgerUnbalanced."""
        ledger = self._store.ledger
        ledger.check()
        book = {
            "policy": ledger.policy,
            "version": str(self._store.version),
            "steps": ledger.steps,
            "counts": ledger.counts(),
            "reasons": {state.value: dict(known) for state, known in ledger.reasons.items()},
            "tickets": [{"ticket": t, "state": s, "reason": r} for t, s, r in ledger.notes],
        }
        text = msgspec.json.format(msgspec.json.encode(book))
        path = self._folder / "ledger.json"
        await self._actor.compute(path.write_bytes, text, label="ledger")
        self._actor.event(ledger.line(), **ledger.counts())

    def _write(self, folder: Path) -> None:
        self._learner.save(folder / "learner")

    def _spared(self, steps: list[int]) -> set[int]:
        """Return the checkpoints that stay though newer ones do: the best, a replay's beginning."""
        begun = {0} if self._policy.journal == "all" else set()
        return begun | (self.best.spared(steps) if self.best is not None else set())

    def _oldest_needed(self) -> int:
        """Return the first journal segment that any of the newest checkpoints needs.

        One whose meta.json does not read can never be gone back to: it needs nothing. Nor does
        one that only stays because it is the best: it is forked from, not resumed.
        """
        needed: list[int] = []
        for step, folder in self.checkpoints.all()[-self._policy.keep :]:
            with contextlib.suppress(CheckpointError):
                needed.append(read_meta(Found(step, folder)).journal_from)
        return min(needed, default=0)
