"""How a trainer's versions go out: whole or in slices, all weights or adapters over a base.

    plain                 this process writes all of a version
    fsdp                  each rank writes its slices, if all share the parameter server's memory;
                          else the leader brings whole weights together
    with adapters         the frozen weights go out once, as a base; then adapters alone

With every N-th version, and the first of a life, goes a canary.

Knows learners and the publisher; knows nothing of steps, tickets or checkpoints. Called by the
trainer.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from realnet.address import Address
from realnet.roles.messages import Canary, Manifest, Over, SlotOpened, Version
from realnet.roles.tables import Lora
from realnet.roles.trainer.loans import Loans
from realnet.roles.trainer.publisher import Base, Elsewhere, Parts, Publisher, Whole
from realnet.roles.weights.adapters import base_version
from realnet.roles.weights.layout import full_dtype

if TYPE_CHECKING:
    from realnet.roles.trainer.learner import Learner
    from realnet.roles.trainer.learner_config import LearnerConfig
    from realnet.roles.trainer.outgoing import What


class Surroundings(Protocol):
    """What publishing needs of its actor."""

    address: Address

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def arena(self, name: str, *, slot_bytes: int, slots: int) -> Awaitable[str]: ...
    def waiting(self, on: str) -> AbstractAsyncContextManager[None]: ...
    def event(self, text: str, **fields: Any) -> None: ...


class Publication:
    """Publishes what a learner has. `dtype` is the policy's; `canary`: every so many versions one
    is proved."""

    def __init__(
        self,
        actor: Surroundings,
        ask: Callable[..., Awaitable[Any]],
        sleep: Callable[[float], Awaitable[None]],
        learner: Learner,
        config: LearnerConfig,
        dtype: str,
        canary: int,
    ) -> None:
        self._actor = actor
        self._learner = learner
        self._config = config
        self._dtype = full_dtype(dtype)
        self._every = canary
        self._publisher = Publisher(actor, ask, sleep)
        self._loans = Loans(actor, ask, learner)
        self._share_memory = True  # the ranks with the parameter server, until one does not
        self._known: tuple[str, int] | None = None  # key and bytes of the base, which is frozen

    async def publish(self, version: Version, *, first: bool) -> None:
        """Return when this version is announced. `first`: nothing was published in this life."""
        canary = None
        whole_digest = ""
        if first or (self._every > 0 and version.number % self._every == 0):
            canary = await self._actor.compute(self._learner.canary, version, label="score canary")
            if self._config.lora.rank:
                whole_digest = await self._actor.compute(
                    self._learner.whole_digest, version, label="sum up weights"
                )
        try:
            await self._publish(version, canary, whole_digest)
        except Elsewhere as error:
            self._actor.event(f"the leader brings whole weights together to publish: {error}")
            self._share_memory = False
            await self._publish(version, canary, whole_digest)

    async def _publish(self, version: Version, canary: Canary | None, whole_digest: str) -> None:
        lora = self._config.lora
        base = await self._base(version, lora, whole_digest) if lora.rank else None
        what = await self._what(version, "version")
        await self._publisher.publish(version, what, canary, base, self._loans.offer)

    async def _base(self, version: Version, lora: Lora, whole_digest: str) -> Base:
        name = base_version(version)
        if self._known is None:
            self._known = await self._actor.compute(self._sum_up, name, label="sum up base")
        key, num_bytes = self._known

        def over(held: Manifest) -> Over:
            return Over(held.version, held.digest, lora.rank, lora.alpha, self._dtype, whole_digest)

        return Base(name, key, num_bytes, await self._what(name, "base"), over)

    def _sum_up(self, name: Version) -> tuple[str, int]:
        return self._learner.base_key(), self._learner.plan(name, "base").num_bytes

    async def _what(self, version: Version, what: What) -> Whole | Parts:
        learner: Any = self._learner
        if self._config.backend != "fsdp" or not self._share_memory:
            return Whole(functools.partial(learner.outgoing, what))
        plan = await self._actor.compute(learner.plan, version, what, label="read weights")

        async def write(opened: SlotOpened) -> Sequence[Manifest]:
            parts: list[Manifest] = await self._actor.compute(
                learner.publish, version, opened, what, label="write version"
            )
            return parts

        return Parts(plan.num_bytes, write)
