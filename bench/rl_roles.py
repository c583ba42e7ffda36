"""Stand-ins for what the asynchrony benchmark does not measure: judging, and the step itself.

Prompter, driver, generator, parameter server and the trainer's admission, assembly, journal, ledger
and publishing are the real ones. Written with what users have: a role of one's own, and a subclass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from realnet import Actor, Config, Delivery, Inlet, Outlet, doc
from realnet.roles.messages import Group, Rollout, Scored, Version
from realnet.roles.trainer.trainer import Trainer, TrainerConfig


class Marker(Actor[Config]):
    """Scores every rollout at once, so that no two answers of a group are equal."""

    rollouts = Inlet(Rollout, window=4096)
    scored = Outlet(Scored)

    @rollouts.handler
    async def mark(self, item: Delivery[Rollout]) -> None:
        """Score by the parity of the sample."""
        reward = float(item.body.key.sample % 2)
        await self.scored.send(Scored(item.body, reward), caused_by=item, key=item.key)


class TimedConfig(TrainerConfig):
    """A trainer's table, and how long a step takes."""

    step_s: Annotated[float, doc("seconds of one step; 0: the caller's clock counts it")] = 1.0


class StandIn:
    """A learner as the trainer calls it: it counts what it was given, and takes its time."""

    tokens = ""  # digest of a vocabulary

    def __init__(self, step_s: float, max_age: int) -> None:
        self._step_s, self._max_age = step_s, max_age

    def step(self, groups: Sequence[Group], current: Version, age: Any) -> dict[str, float]:
        """Take one step: `step_s` seconds in all."""
        end_s = time.monotonic() + self._step_s
        ages: dict[int, int] = {}
        for group in groups:
            for scored in group.scored:
                for span in scored.rollout.segments[-1].spans:
                    old = age(span.version)
                    ages[old] = ages.get(old, 0) + span.length
        tokens = sum(ages.values())
        if self._step_s:
            time.sleep(max(0.0, end_s - time.monotonic()))
        masked = sum(count for old, count in ages.items() if old > self._max_age)
        return {
            "tokens": float(tokens),
            "tokens_masked": masked / max(tokens, 1),
            "age_mean": sum(a * n for a, n in ages.items()) / max(tokens, 1),
            "age_max": float(max(ages, default=0)),
        }

    def score(self, rows: Sequence[tuple[Any, Any]]) -> list[Any]:
        """Have no opinion of answers."""
        return [np.zeros(len(where), np.float32) for _, where in rows]

    def canary(self, version: Version) -> None:
        """There is nothing to check an engine by."""

    def load(self, folder: Path) -> None:
        """Read a checkpoint with nothing in it."""

    def outgoing(self, _what: str) -> list[tuple[str, Any, str]]:
        """Return the smallest version that can be published."""
        return [("weight", np.zeros(16, np.float32), "float32")]

    def refer(self, folder: Path) -> None:
        """There is no reference."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint with nothing in it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nothing").write_bytes(b"")


class TimedTrainer(Trainer, Actor[TimedConfig]):
    """The trainer with a stand-in for its learner."""

    config: TimedConfig

    @classmethod
    def preload(cls) -> None:
        """Nothing heavy."""

    def _build(self) -> Any:
        return StandIn(self.config.step_s, self._policy.max_age)
