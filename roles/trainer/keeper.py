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
    """The checkpoints and books of one trainer. `saved` is the step of the last checkpoint."""

    def __init__(
        self,
        actor: Surroundings,
        store: Store,
        checkpoints: Checkpoints,
        learner: Saves,
        folder: Path,
    ) -> None:
        self.checkpoints = checkpoints
        self.saved = -1
        self._actor = actor
        self._store = store
        self._learner = learner
        self._folder = folder

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

    def _oldest_needed(self) -> int:
        """Return the first journal segment that any checkpoint which is kept needs.

        One whose meta.json does not read can never be gone back to: it needs nothing.
        """
        needed: list[int] = []
        for step, folder in self.checkpoints.all():
            with contextlib.suppress(CheckpointError):
                needed.append(read_meta(Found(step, folder)).journal_from)
        return min(needed, default=0)
