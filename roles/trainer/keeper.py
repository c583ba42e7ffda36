"""Saves the trainer: checkpoint, journal trimmed below it, and the books of the ledger.

Knows store, learner and checkpoints, not when to save. Called by the trainer, which holds still
meanwhile: no step is taken between the snapshot of the ledger and the learner's files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from realnet.errors import CheckpointError
from realnet.observe.record import read_rows
from realnet.roles.checkpoints.best import Best, measured_rows, row_name
from realnet.roles.checkpoints.checkpoint import Checkpoints, Entry, Found
from realnet.roles.checkpoints.meta import read_meta
from realnet.roles.messages import Measured
from realnet.roles.tables import Save
from realnet.roles.trainer.store import Store

_LEARNER = "learner"  # the folder of its files


class Surroundings(Protocol):
    """What saving needs of its actor."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def event(self, text: str, **fields: Any) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, bool], *, name: str) -> asyncio.Task[bool]: ...


class Saves(Protocol):
    """A learner, as far as a checkpoint goes."""

    def save(self, folder: Path) -> None: ...


class Durable(Protocol):
    """A file that is on the disk, and its digest."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def xxh3_128(self) -> str: ...


@runtime_checkable
class Stages(Protocol):
    """A learner that copies its state aside and writes it while the next steps are taken."""

    def stage(self, folder: Path) -> None: ...
    def finish(self, folder: Path) -> Sequence[Durable]: ...


class Keeper:
    """The checkpoints and books of one trainer. `saved` is the step of the last checkpoint that is
    whole, `begun` that of the last one that was begun.

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
        self.saved = self.begun = -1
        self._writing: asyncio.Task[bool] | None = None
        self._since_s: float | None = None  # of the last checkpoint that was begun
        self._policy = policy
        self._measured_every = measured_every
        self._actor = actor
        self._store = store
        self._learner = learner
        self._folder = folder

    def due(self, step: int, elapsed_s: float) -> bool:
        """Tell whether a checkpoint is to be written after this step, `elapsed_s` into the run."""
        every, after_s = self._policy.every, self._policy.time
        if self.best is not None and step % self._measured_every == 0:
            return True
        if self._since_s is None:
            self._since_s = elapsed_s
        late = after_s is not None and elapsed_s - self._since_s >= after_s
        return late or step // every > max(self.saved, self.begun) // every

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

    async def save(self, elapsed_s: float, *, wait: bool = True) -> bool:
        """Write a checkpoint, if there is none of this step. False, and told, when it failed.

        Without `wait`, a learner that can writes it beside the next steps; one at a time.
        """
        store, step = self._store, self._store.step
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await writing
        if step == self.saved:
            return True
        store.trained_s = self._since_s = elapsed_s
        small = store.snapshot()
        self.begun = step
        stages = isinstance(self._learner, Stages)
        save = self.checkpoints.begin if stages else self.checkpoints.save
        try:
            await self._actor.compute(save, step, small, self._write, label="checkpoint")
        except CheckpointError as error:
            return self._failed(step, error)
        if not stages:
            return await self._is_whole(step)
        self._writing = self._actor.spawn(self._finish(step), name="checkpoint")
        return await self._writing if wait else True

    async def _finish(self, step: int) -> bool:
        """Wait, in a thread of its own, until what was begun is whole."""
        try:
            await asyncio.to_thread(self.checkpoints.finish, step, self._rest)
        except CheckpointError as error:
            return self._failed(step, error)
        return await self._is_whole(step)

    def _rest(self, part: Path) -> dict[str, Entry]:
        assert isinstance(self._learner, Stages)
        done = self._learner.finish(part / _LEARNER)
        return {f"{_LEARNER}/{file.name}": Entry(file.size, file.xxh3_128) for file in done}

    def _failed(self, step: int, error: CheckpointError) -> bool:
        self.begun, self._since_s = self.saved, float("-inf")
        self._actor.event(f"{error}. It is tried again after the next step", step=step)
        return False

    async def _is_whole(self, step: int) -> bool:
        """Let go of what only older checkpoints need."""
        store, self.saved = self._store, step
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
        if isinstance(self._learner, Stages):
            self._learner.stage(folder / _LEARNER)
        else:
            self._learner.save(folder / _LEARNER)

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
