"""How a trainer ends when its schedule is done: the last checkpoint, exports, the books closed.

    save -> wait for the last measurement (if the best checkpoint is kept) -> export -> ledger.json

Knows keeper and learner, not steps. Called by the trainer, which takes no step meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from realnet.actor import Clock
from realnet.errors import CheckpointError
from realnet.roles.tables import Save
from realnet.roles.trainer.bell import Bell
from realnet.roles.trainer.keeper import Keeper
from realnet.roles.trainer.store import Store

_PAUSE_S = 5.0  # between tries when the disk is full
_LAST_TRIES = 3  # of the last checkpoint
_MEASURE_S = 600.0  # the longest wait for the measurement of the last version


class Surroundings(Protocol):
    """What an ending needs of its actor."""

    clock: Clock

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def event(self, text: str, **fields: Any) -> None: ...
    def progress(self, text: str) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> Any: ...
    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...


class Exports(Protocol):
    """A learner, as far as endings go."""

    def load(self, folder: Path) -> None: ...
    def export(self, folder: Path) -> None: ...


class Ending:
    """Ends one trainer's work. `bell` rings when a measurement came or the run is to stop."""

    def __init__(
        self,
        actor: Surroundings,
        store: Store,
        keeper: Keeper,
        learner: Exports,
        folder: Path,
        bell: Bell,
        policy: Save,
    ) -> None:
        self._actor = actor
        self._store = store
        self._keeper = keeper
        self._learner = learner
        self._folder = folder
        self._bell = bell
        self._policy = policy

    async def end(
        self, elapsed_s: Callable[[], float], *, measured: bool, stopping: Callable[[], bool]
    ) -> None:
        """Save, export and close the books. `measured`: somebody measures versions.

        Raises CheckpointError when the disk stays full, LedgerUnbalanced.
        """
        await self._save(elapsed_s)
        if measured and self._keeper.best is not None:
            await self._last_measured(stopping)
        await self._export()
        await self._keeper.close_books()

    async def _save(self, elapsed_s: Callable[[], float]) -> None:
        for attempt in range(_LAST_TRIES):
            if await self._keeper.save(elapsed_s()):
                return
            if attempt + 1 < _LAST_TRIES:
                async with self._actor.waiting("space on the disk for the last checkpoint"):
                    await self._actor.clock.sleep(_PAUSE_S)
        raise CheckpointError(f"the last checkpoint failed {_LAST_TRIES} times")

    async def _last_measured(self, stopping: Callable[[], bool]) -> None:
        """Wait until the last version is measured: it may be the best."""
        clock, best, step = self._actor.clock, self._keeper.best, self._store.step
        assert best is not None
        end_s = clock.now() + _MEASURE_S
        self._actor.spawn(self._ring_at(end_s), name="end of measuring")
        async with self._actor.waiting("the measurement of the last version"):
            while step not in best.values and not stopping() and clock.now() < end_s:
                await self._bell.wait()

    async def _ring_at(self, time_s: float) -> None:
        await self._actor.clock.sleep(max(0.0, time_s - self._actor.clock.now()))
        self._bell.ring()

    async def _export(self) -> None:
        """Write Hugging Face folders: of the last version, and of the best if that is another."""
        actor, learner, folder = self._actor, self._learner, self._folder
        best = self._keeper.best_step()
        if best is not None:
            actor.event(f"best by {self._policy.best}: step {best}", best_step=best)
        if self._policy.export != "hf":
            return
        actor.progress("exporting")
        await actor.compute(learner.export, folder / "export", label="export")
        if best is not None and best != self._store.step:
            found = self._keeper.checkpoints.at(best)
            await actor.compute(learner.load, found.folder / "learner", label="export")
            await actor.compute(learner.export, folder / "export-best", label="export")
