"""Scores rollouts: each reward of the rollout's task, weighted and summed, its parts kept.

A reward that cannot judge leaves `reward = None` and the reason in `fault`: no score is made up.

Waits for: a worker of the pool, room at the trainer. Knows nothing of models, weights or steps.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

from realnet import Actor, Config, Delivery, Inlet, Outlet, doc, handles
from realnet.config import Bytes, Seconds, Shared
from realnet.errors import ConfigError, listed
from realnet.roles.messages import Judge, Judgement, Rollout, Scored
from realnet.roles.rewards import RewardPool, check_reference, score
from realnet.roles.rewards.canary import prove
from realnet.roles.rewards.scoring import wrong_weights
from realnet.roles.tables import Task

_ROW_EVERY_S = 10.0
_SHOWN = 10  # faults told one by one in each period; the rest is counted


class RewarderConfig(Config):
    """`[roles.rewarder]`."""

    slots: Annotated[int, doc("worker processes", ge=1)] = 1
    limit: Annotated[Seconds, doc('longest that one reward may run, e.g. "15s"')] = Seconds(15)
    worker_memory: Annotated[Bytes, doc('address space of a worker, e.g. "2GiB"; 0: no limit')] = (
        Bytes(2 << 30)
    )
    nice: Annotated[
        int,
        doc("how far worker processes give way to others on their host, as nice(1)", ge=0, le=19),
    ] = 0
    attempts: Annotated[int, doc("tries, each in a fresh process, before giving up", ge=1)] = 3
    window: Annotated[int, doc("most rollouts in hand at once", ge=1)] = 256

    def __post_init__(self) -> None:
        """Refuse a limit that no reward can keep."""
        if not self.limit > 0:
            raise ValueError('limit = 0: a reward needs time, for example "15s"')


class Rewarder(Actor[RewarderConfig]):
    """Scores rollouts. Knows nothing of models, weights or steps."""

    shared = (Task,)
    rollouts = Inlet(Rollout, window="window")
    scored = Outlet(Scored)

    @classmethod
    def check(cls, config: RewarderConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse rewards that are not there. Imports none of them."""
        del config
        problems: list[str] = []
        for name, task in shared[Task].items():
            where = f"[tasks.{name}].reward"
            if not task.reward:
                problems.append(f"{where}: at least one is needed, for example {{ exact = 1.0 }}")
            problems += wrong_weights(task, where)
            for reference in task.reward:
                try:
                    check_reference(reference, base, where)
                except ConfigError as error:
                    problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))

    async def start(self) -> None:
        """Start the worker processes, and see that they judge known answers as they should."""
        self._tasks = self.all(Task)
        self._sum, self._scored, self._faults = 0.0, 0, 0
        self._wait = {
            name: f"reward workers: {name} is judged by {listed(task.reward)}"
            for name, task in self._tasks.items()
        }
        config = self.config
        self._pool = RewardPool(
            [reference for task in self._tasks.values() for reference in task.reward],
            self.run_info.base,
            workers=config.slots,
            limit_s=config.limit,
            memory_bytes=config.worker_memory,
            nice=config.nice,
            attempts=config.attempts,
            log=_to_log,
        )
        self.progress("starting reward workers")
        await self._pool.start()
        await prove(self._pool, (name for task in self._tasks.values() for name in task.reward))
        self.progress("scoring")

    async def run(self) -> None:
        """Write a row of metrics now and then."""
        while True:
            await self.clock.sleep(_ROW_EVERY_S)
            scored, faults = self._scored, self._faults
            if not scored and not faults:
                continue
            mean = self._sum / scored if scored else 0.0
            self._sum, self._scored, self._faults = 0.0, 0, 0
            self.metrics(
                step=None,
                **{
                    "rewards/per_s": scored / _ROW_EVERY_S,
                    "rewards/unscored": float(faults),
                    "rewards/waiting": float(self._pool.num_waiting),
                    **({"rewards/mean": mean} if scored else {}),
                },
            )
            if faults > _SHOWN:
                self.event(f"{faults - _SHOWN} more rollouts could not be scored")

    async def stop(self) -> None:
        """End the worker processes."""
        pool: RewardPool | None = getattr(self, "_pool", None)
        if pool is not None:
            await pool.close()

    @rollouts.handler
    async def judge(self, item: Delivery[Rollout]) -> None:
        """Score one rollout and hand it on."""
        await self.scored.send(await self._score(item.body), caused_by=item, key=item.key)

    @handles
    async def judge_now(self, request: Judge) -> Judgement:
        """Score rollouts for the asker (an evaluator)."""
        return Judgement(tuple(await asyncio.gather(*map(self._score, request.rollouts))))

    async def _score(self, rollout: Rollout) -> Scored:
        async with self.waiting(self._wait.get(rollout.task, "reward workers")):
            scored = await score(self._pool, self._tasks, rollout)
        if scored.reward is not None:
            self._sum += scored.reward
            self._scored += 1
            return scored
        self._faults += 1
        if self._faults <= _SHOWN:
            self.event(f"{rollout.key} has no score: {scored.fault}", task=rollout.task)
        return scored


def _to_log(text: str) -> None:
    """What user code prints belongs in this role's log."""
    sys.stderr.write(text)
    sys.stderr.flush()
