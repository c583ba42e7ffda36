"""One training step of the trainer: its batch made durable, its gradient taken, or its batch kept.

A batch that gives no finite loss is written to a file and its tickets are dropped: the step is as
if it had not been, and too many of those in a row end the run.

Knows store, learner and failures; knows nothing of wires, versions or checkpoints. Called by the
trainer, which holds the choice of a batch until it is trained.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from realnet.actor import Clock
from realnet.roles.messages import Group, Version
from realnet.roles.trainer.failures import Failures
from realnet.roles.trainer.learner_config import NonFinite
from realnet.roles.trainer.reading import Reading
from realnet.roles.trainer.store import Store

if TYPE_CHECKING:
    from realnet.roles.trainer.learner import Learner


class Surroundings(Protocol):
    """What stepping needs of its actor."""

    clock: Clock

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def event(self, text: str, **fields: Any) -> None: ...
    def progress(self, text: str) -> None: ...


class Stepping:
    """Takes the steps of one policy.

    `news` is called when tickets were sent away; `dynamic`: groups that teach nothing are dropped.
    """

    def __init__(
        self,
        actor: Surroundings,
        store: Store,
        learner: Learner,
        reading: Reading,
        failures: Failures,
        news: Callable[[], None],
        *,
        dynamic: bool,
    ) -> None:
        self._actor = actor
        self._store = store
        self._learner = learner
        self._reading = reading
        self._failures = failures
        self._news = news
        self._dynamic = dynamic

    async def take(self, wait_s: float) -> dict[str, float] | None:
        """Train on the batch that is ready; return its row of metrics, or None without a step."""
        store, actor = self._store, self._actor
        groups = store.batch_ready()
        if groups is None:
            return None
        if await store.retire(groups):
            self._news()
            return None
        start_s = actor.clock.now()
        actor.progress(f"step {store.step + 1}")
        await store.begin_step(groups)
        try:
            signs = await actor.compute(self._train, groups, store.version, label="train")
        except NonFinite as error:
            await self._failed(groups, str(error))
            return None
        unfit, store.unfit_step = store.unfit_step, 0
        store.trained(groups)
        self._failures.finite()
        step_s = actor.clock.now() - start_s
        timing = {"wait_s": wait_s, "step_s": step_s, "branch": float(store.version.branch)}
        more = {"skipped": float(self._failures.skipped)}
        if self._dynamic:
            more["groups_unfit"] = float(unfit)
        return {**signs, **store.signs(), **timing, **more}

    def _train(self, groups: Sequence[Group], version: Version) -> dict[str, float]:
        """Write a few answers down and take the step, in the compute thread."""
        self._reading.write(groups, version)
        return self._learner.step(groups, version, self._age)

    def _age(self, version: Version) -> int:
        return self._store.lineage.age(version, self._store.version)

    async def _failed(self, groups: Sequence[Group], reason: str) -> None:
        """Keep a batch that gave no finite loss, and drop its tickets."""
        step, actor = self._store.step + 1, self._actor
        path = await actor.compute(self._failures.keep, step, groups, reason, label="keep batch")
        await self._store.dropped(groups, f"no finite loss in step {step}")
        self._news()
        actor.event(f"step {step} was not taken: {reason}; batch kept in {path}", step=step)
        self._failures.judge(step, reason)
