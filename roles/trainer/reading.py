"""A few answers of each step, written down for people to read, with both opinions of each token.

The answers with the lowest and the highest reward, and others between them. What the trainer's own
model says of their tokens as the step begins stands beside what the generators sent: where the two
differ at age 0, the two do not compute the same.

Knows records and a file. Knows nothing of models: log-probabilities come from a function. Called by
the trainer, in its compute thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from realnet.roles.messages import Floats, Group, Rollout, Scored, Version
from realnet.roles.samples import TRAIN_FILE, sample_row, write_rows

Ids = npt.NDArray[np.int64]
Score = Callable[[Sequence[tuple[Ids, Ids]]], list[Floats]]


class Reading:
    """Writes `count` answers a step into `samples.train.jsonl` of a folder; 0: none."""

    def __init__(self, folder: Path, count: int, score: Score) -> None:
        self._path, self._count, self._score = folder / TRAIN_FILE, count, score

    def write(self, groups: Sequence[Group], version: Version) -> None:
        """Write answers of the batch that is about to be trained with, from this version on.

        A disk that is full costs these lines and nothing else.
        """
        picked = chosen([scored for group in groups for scored in group.scored], self._count)
        if not picked:
            return
        opinions = self._score([_row(scored.rollout) for scored in picked])
        rows = [
            {**sample_row(scored, logp), "ticket": scored.rollout.key.ticket.ticket}
            for scored, logp in zip(picked, opinions, strict=True)
        ]
        with contextlib.suppress(OSError):
            write_rows(self._path, version.number + 1, version, rows)


def chosen(scored: Sequence[Scored], count: int) -> list[Scored]:
    """Return up to `count` judged answers, evenly from the lowest reward to the highest."""
    order = sorted(
        (s for s in scored if s.reward is not None and _written(s.rollout)),
        key=lambda s: (s.reward or 0.0, s.rollout.key.ticket.ticket, s.rollout.key.sample),
    )
    if len(order) <= count or count < 2:
        return order[:count]
    last = len(order) - 1
    return [order[i * last // (count - 1)] for i in range(count)]


def _written(rollout: Rollout) -> int:
    return sum(len(s.token_ids) for s in rollout.segments if s.origin == "model")


def _row(rollout: Rollout) -> tuple[Ids, Ids]:
    """Return the tokens of all segments, and the places of those that a model wrote."""
    ids = np.concatenate([s.token_ids for s in rollout.segments]).astype(np.int64)
    by_model = np.concatenate(
        [np.full(len(s.token_ids), s.origin == "model") for s in rollout.segments]
    )
    return ids, np.flatnonzero(by_model)
