"""A batch as the learner sees it: one `Sample` for each answer, with masks, ages and advantages.

Segments are laid end to end; only tokens that a model wrote, in segments marked `learn`, may carry
gradient, and of these only those young enough. Where such a token stands in the answer does not
matter: an answer that ends with a tool's output keeps its outcome on all tokens before it.

Knows records and numpy, not models. Called by the learner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from realnet.errors import RealnetError
from realnet.roles.algorithms.advantages import Kind, advantages
from realnet.roles.messages import Group, Rollout, Segment, Version

Age = Callable[[Version], int]
Oldest = int | None


class BadRollout(RealnetError):
    """A rollout that cannot be trained on as it stands."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. Shapes: ids [L]; where, behave [T]: the tokens that may carry gradient.

    `where` are positions in `ids` (never 0: nothing predicts the first token), `behave` the
    log-probabilities they were drawn with. `counted` is T plus the tokens masked for their age.
    """

    ids: npt.NDArray[np.int64]
    where: npt.NDArray[np.int64]
    behave: npt.NDArray[np.float32]
    counted: int
    advantage: float

    @property
    def teaches(self) -> bool:
        """Tell whether any token of it has a gradient at all."""
        return self.advantage != 0.0 and len(self.where) > 0

    @property
    def width(self) -> int:
        """Return how many tokens the model must read to predict the last one that counts."""
        return int(self.where[-1])


@dataclass(slots=True)
class Batch:
    """The judged answers of a batch, and what can be said about it before any forward pass."""

    samples: list[Sample]
    signs: dict[str, float] = field(default_factory=dict)


def make_batch(groups: Sequence[Group], age: Age, oldest: Oldest, kind: Kind) -> Batch:
    """Lay out the answers of `groups`. Tokens older than `oldest` versions carry no gradient.

    Answers without a reward are counted, and left out of everything else.
    """
    scored = [(group.key, s) for group in groups for s in group.scored]
    worth, _, flat = advantages([k for k, _ in scored], [s.reward for _, s in scored], kind)
    ages: Counter[int] = Counter()
    samples = [
        _sample(s.rollout, float(a), age, oldest, ages)
        for (_, s), a in zip(scored, worth, strict=True)
        if s.reward is not None
    ]
    rewards = np.array([s.reward for _, s in scored if s.reward is not None], dtype=np.float64)
    judged = max(len(rewards), 1)
    tokens = sum(ages.values())
    masked = 0 if oldest is None else sum(n for a, n in ages.items() if a > oldest)
    entropy = -sum(float(s.behave.sum()) for s in samples) / max(tokens - masked, 1)
    signs = {
        "reward": float(rewards.sum()) / judged,
        "solved": float((rewards > 0.0).sum()) / judged,
        "samples": float(len(samples)),
        "unscored": float(len(scored) - len(samples)),
        "groups": float(len(groups)),
        "groups_equal": (flat + len(groups) - len({g.key for g in groups if g.scored}))
        / max(len(groups), 1),
        "truncated": sum(s.rollout.stop == "length" for _, s in scored) / max(len(scored), 1),
        "response_tokens": tokens / judged,
        "tokens": float(tokens),
        "tokens_masked": masked / max(tokens, 1),
        "age_mean": sum(a * n for a, n in ages.items()) / max(tokens, 1),
        "entropy": entropy,
    }
    signs |= {f"age_{a}": n / max(tokens, 1) for a, n in sorted(ages.items())}
    return Batch(samples, signs)


def _sample(
    rollout: Rollout, advantage: float, age: Age, oldest: Oldest, ages: Counter[int]
) -> Sample:
    """Lay the segments of one rollout end to end, and count the ages of its tokens."""
    where: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    behave: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)]
    start = counted = 0
    for i, segment in enumerate(rollout.segments):
        if segment.parent not in (-1, i - 1):
            raise BadRollout(
                f"{rollout.key}: segment {i} follows segment {segment.parent}; the learner trains "
                "straight episodes only: send each branch as a rollout of its own"
            )
        if segment.learn:
            old = _token_ages(rollout, i, segment, age)
            at = np.arange(start, start + len(old))
            old, at = old[at > 0], at[at > 0]
            ages.update(old.tolist())
            counted += len(at)
            young = np.full(len(at), True) if oldest is None else old <= oldest
            where.append(at[young])
            behave.append(segment.logprobs[at[young] - start].astype(np.float32))
        start += len(segment.token_ids)
    ids = np.concatenate([np.empty(0, np.int64), *(s.token_ids for s in rollout.segments)])
    return Sample(
        ids.astype(np.int64), np.concatenate(where), np.concatenate(behave), counted, advantage
    )


def _token_ages(rollout: Rollout, i: int, segment: Segment, age: Age) -> npt.NDArray[np.int64]:
    """Return the age of each token [T]; raises BadRollout unless each has a version and logprob."""
    n = len(segment.token_ids)
    if sum(span.length for span in segment.spans) != n or len(segment.logprobs) != n:
        raise BadRollout(
            f"{rollout.key}: segment {i} has {n} tokens to learn from, "
            f"{len(segment.logprobs)} logprobs and versions for "
            f"{sum(span.length for span in segment.spans)}: a generator must send all three alike"
        )
    lengths = [span.length for span in segment.spans]
    return np.repeat(np.array([age(s.version) for s in segment.spans], dtype=np.int64), lengths)
