"""One micro-batch as it is run: token ids, where they are trained, and what the objective wants.

A part holds arrays only, so that it can be run here or sent to another rank. Whoever runs it knows
the model and the rule; what an answer is worth was decided before.

Knows arrays, not models or tickets. Made by the learner; run (`learner_run.py`) by it or its ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from realnet.message import Message
from realnet.roles.trainer.learner_batch import Sample

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Row = tuple[Longs, Longs]  # token ids, and the positions in them that are asked for
Known = Mapping[int, Floats]  # log-probabilities [T] of a policy, by position of the answer
_NONE = np.zeros(0)


class Part(Message):
    """Some whole answers, end to end. Shapes: ids [sum L]; lengths, counts, share [answers]; the
    rest [T], in the order of the answers. `where` counts from each answer's start.

    `share` is what each token of an answer counts in the mean. `proximal` and `reference` are empty
    where the policy that runs the part is the proximal one, and where there is no reference.
    """

    ids: Longs
    lengths: Longs
    where: Longs
    counts: Longs
    behave: npt.NDArray[np.float32]
    advantage: Floats
    ages: Longs
    share: Floats
    proximal: Floats = _NONE
    reference: Floats = _NONE

    @property
    def rows(self) -> list[Row]:
        """Return what a forward pass needs: of each answer ids, and the positions asked for."""
        ids = np.split(self.ids, np.cumsum(self.lengths)[:-1])
        where = np.split(self.where, np.cumsum(self.counts)[:-1])
        return list(zip(ids, where, strict=True))


def make_part(
    samples: Sequence[Sample],
    chosen: Sequence[int],
    share: Mapping[int, float],
    proximal: Known,
    reference: Known,
) -> Part:
    """Return the part of the answers at positions `chosen` of `samples`."""
    picked = [samples[i] for i in chosen]
    return Part(
        ids=np.concatenate([s.ids for s in picked]),
        lengths=np.array([len(s.ids) for s in picked]),
        where=np.concatenate([s.where for s in picked]),
        counts=np.array([len(s.where) for s in picked]),
        behave=np.concatenate([s.behave for s in picked]),
        advantage=np.concatenate([s.advantage for s in picked]),
        ages=np.concatenate([s.ages for s in picked]),
        share=np.array([share[i] for i in chosen]),
        # the first minibatch of a step is scored by the policy that the step starts from
        proximal=_joined(chosen, proximal) if chosen[0] in proximal else _NONE,
        reference=_joined(chosen, reference) if reference else _NONE,
    )


def rows_part(rows: Sequence[Row]) -> Part:
    """Return a part that is only read, not trained on."""
    where = np.concatenate([where for _, where in rows])
    nothing = np.zeros(len(where))
    return Part(
        ids=np.concatenate([ids for ids, _ in rows]),
        lengths=np.array([len(ids) for ids, _ in rows]),
        where=where,
        counts=np.array([len(where) for _, where in rows]),
        behave=nothing.astype(np.float32),
        advantage=nothing,
        ages=nothing.astype(np.int64),
        share=np.zeros(len(rows)),
    )


def _joined(chosen: Sequence[int], known: Known) -> Floats:
    return np.concatenate([known[i] for i in chosen])
