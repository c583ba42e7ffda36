"""How a trainer's life begins: resumed from its own checkpoint, forked from another run's, or new.

    a checkpoint of its own     resumed: journal replayed, a new branch
    [run].from                  forked: the other run's weights, a ledger and journal of its own
    neither                     new: warm start

A trainer that was killed finds its own checkpoint, like one whose run was resumed. After a
beginning that is not a resume the first checkpoint is written, before anything is published.

Knows store, keeper and learner; nothing of steps or wires. Called by the trainer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from realnet.actor import RunInfo
from realnet.address import Address
from realnet.errors import CheckpointError, ConfigError
from realnet.roles.checkpoints.checkpoint import Checkpoints, Found
from realnet.roles.checkpoints.meta import check_tokens, read_meta
from realnet.roles.checkpoints.origin import RUN, Origin, locate
from realnet.roles.ledger import Lineage
from realnet.roles.models.reference import described, origin_of
from realnet.roles.tables import Policy, Schedule, Task
from realnet.roles.trainer.demonstrations import demonstrations
from realnet.roles.trainer.keeper import Keeper
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.store import Store

_WARM_ROW = 20  # updates of the warm start for one row of metrics


def built_as(policy: Policy, base: Path, checkpoints: Path) -> tuple[Policy, str]:
    """Return what a learner's model is built from, and in words the checkpoint that it begins as.

    Another run's weights ("run:NAME@step") are needed until there are checkpoints of its own.
    """
    if not policy.model.startswith(RUN):
        return policy, ""
    if Checkpoints(checkpoints, keep=1).all():
        return described(policy, base), ""
    return policy, str(origin_of(policy, base))


class Surroundings(Protocol):
    """What a beginning needs of its actor."""

    address: Address
    run_info: RunInfo

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def event(self, text: str, **fields: Any) -> None: ...
    def metrics(self, *, step: int | None = None, **values: float) -> None: ...
    def progress(self, text: str) -> None: ...


class Learns(Protocol):
    """A learner, as far as beginnings go."""

    def load(self, folder: Path) -> None: ...
    def adopt(self, folder: Path) -> str: ...
    def refer(self, folder: Path) -> None: ...
    def warm_start(self, demos: Any, report: Any) -> None: ...


class Beginning:
    """Brings store and learner to where the next step begins."""

    def __init__(
        self,
        actor: Surroundings,
        store: Store,
        keeper: Keeper,
        learner: Learns,
        folder: Path,
    ) -> None:
        self._actor = actor
        self._store = store
        self._keeper = keeper
        self._learner = learner
        self._folder = folder
        self._loop = asyncio.get_running_loop()

    async def begin(
        self, config: LearnerConfig, schedule: Schedule, tasks: Mapping[str, Task]
    ) -> None:
        """Load or make the policy, and everything known about its tickets."""
        actor = self._actor
        actor.progress("reading checkpoint and journal")
        found = await actor.compute(self._rebuild, label="read checkpoint")
        if found is not None:
            await self._resume(found)
            return
        if schedule.origin:
            await self._fork(schedule.origin)
        elif config.warm_start.steps:
            demos = demonstrations(tasks, actor.run_info.base)
            await actor.compute(self._learner.warm_start, demos, self._report, label="warm start")
        await actor.compute(self._learner.refer, self._folder, label="keep reference")
        if not await self._keeper.save(0.0):
            raise CheckpointError(f"{self._folder}: the first checkpoint could not be written")

    # ------------------------------------------------------------ resumed

    def _rebuild(self) -> Found | None:
        """Load the newest whole checkpoint and replay the journal after it."""
        store = self._store
        store.journal.open()
        found = self._keeper.checkpoints.newest(self.notice)
        if found is not None:
            meta = read_meta(found)
            check_tokens(meta, store.tokens, found.folder)
            first = store.journal.first
            if meta.journal_from < first:
                raise CheckpointError(
                    f"{found.folder} needs the journal from segment {meta.journal_from} on, and "
                    f"{store.journal.folder} begins with {first}: it was kept for its weights. "
                    f"Fork it: realnet run FILE --from {self._actor.run_info.folder}@{found.step}"
                )
        store.rebuild(found)
        if found is not None:
            self._learner.load(found.folder / "learner")
            self._learner.refer(self._folder)
            self._keeper.read_measured(self._actor.run_info.folder / "metrics.jsonl")
        return found

    async def _resume(self, found: Found) -> None:
        """Go on from a checkpoint, on a branch of its own."""
        store, actor = self._store, self._actor
        meta = read_meta(found)
        again = await store.resume(meta.version, meta.asks)
        self._keeper.saved = found.step
        what = "resumed" if actor.run_info.resumed else "was restarted and resumed"
        text = f"{actor.address} {what} at step {found.step} as {store.version}"
        if store.lost_steps:
            text += f"; {store.lost_steps} steps begun after it are taken again"
        if meta.asks and meta.asks != store.asks:
            text += "; the tasks are not what they were: tickets answered in part are asked anew"
        if again:
            text += f"; {again} tickets are answered again: what they hold is of no use"
        actor.event(text, step=found.step)

    # ------------------------------------------------------------ forked

    async def _fork(self, text: str) -> None:
        """Take the weights of another run's checkpoint, and its moments where they fit."""
        store, actor = self._store, self._actor
        actor.progress(f"taking the weights of {text}")
        origin, how = await actor.compute(self._adopt, text, label="read checkpoint")
        lineage = Lineage.restore(origin.found.read("lineage.msgpack"))
        store.fork(lineage, origin.meta.version, str(origin))
        actor.event(
            f"{actor.address} begins as {store.version} with the weights of {origin}; {how}",
            origin=str(origin),
            origin_folder=str(origin.run),
        )

    def _adopt(self, text: str) -> tuple[Origin, str]:
        runs = self._actor.run_info.folder.parent
        origin = locate(text, runs, self._store.name)
        check_tokens(origin.meta, self._store.tokens, origin.found.folder)
        try:
            how = self._learner.adopt(origin.found.folder / "learner")
        except CheckpointError as error:  # a restart would end the same way
            raise ConfigError(f'[run].from = "{text}": {error}') from error
        return origin, how

    # ------------------------------------------------------------ told from other threads

    def notice(self, text: str) -> None:
        """Tell something from whatever thread."""
        self._loop.call_soon_threadsafe(self._actor.event, text)

    def _report(self, step: int, of: int, signs: dict[str, float]) -> None:
        self._loop.call_soon_threadsafe(self._warmer, step, of, signs)

    def _warmer(self, step: int, of: int, signs: dict[str, float]) -> None:
        self._actor.progress(f"warm start {step}/{of}")
        if step % _WARM_ROW == 0 or step == of:
            row = {"warm_step": step, **{f"warm_{name}": value for name, value in signs.items()}}
            self._actor.metrics(step=None, **row)
