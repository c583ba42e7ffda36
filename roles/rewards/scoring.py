"""The reward of one rollout: each reward of its task, weighted and summed, its parts kept.

A reward that cannot judge leaves `reward = None` and the reason in `fault`: no score is made up.
Knows a pool and tables. Knows nothing of actors. Called by the rewarder and by `realnet try`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from realnet.roles.messages import Rollout, Scored
from realnet.roles.rewards.pool import RewardPool, Unscored
from realnet.roles.tables import Task


async def score(pool: RewardPool, tasks: Mapping[str, Task], rollout: Rollout) -> Scored:
    """Return the rollout with its reward, or with what went wrong."""
    task = tasks.get(rollout.task)
    if task is None:
        return Scored(rollout, None, {}, f"no task {rollout.task!r} in this topology")
    answers = await asyncio.gather(*(_part(pool, name, rollout) for name in task.reward))
    parts: dict[str, float] = {}
    reasons: list[str] = []
    for reference, answer in zip(task.reward, answers, strict=True):
        if isinstance(answer, Unscored):
            reasons.append(str(answer))
        else:
            parts[reference] = answer
    if reasons:
        return Scored(rollout, None, parts, "; ".join(reasons))
    reward = sum(weight * parts[reference] for reference, weight in task.reward.items())
    if not math.isfinite(reward):  # finite parts, but too large together
        return Scored(
            rollout, None, parts, f"reward sum: {parts} weighted by {task.reward} is {reward}"
        )
    return Scored(rollout, reward, parts)


def wrong_weights(task: Task, where: str) -> list[str]:
    """Say which weights make no reward of a task's parts: no number, or nothing but zeros."""
    wrong = [
        f"{where}: the weight of {reference!r} is {weight}: write a finite number"
        for reference, weight in task.reward.items()
        if not math.isfinite(weight)
    ]
    if task.use == "train" and task.reward and not any(task.reward.values()):
        wrong.append(
            f"{where}: every weight is 0, so all answers would be worth the same and nothing is "
            "learnt: give one of them another weight (a part of weight 0 beside it is only shown)"
        )
    return wrong


async def _part(pool: RewardPool, reference: str, rollout: Rollout) -> float | Unscored:
    try:
        return await pool.score(
            reference, rollout.prompt, rollout.text, rollout.answer, rollout.stop
        )
    except Unscored as unscored:
        return unscored
