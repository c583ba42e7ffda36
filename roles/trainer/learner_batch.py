"""A batch as the learner sees it: one `Sample` for each answer, with masks, ages and advantages.

Segments are laid end to end; only tokens that a model wrote, in segments marked `learn`, may carry
gradient, and of these only those young enough. Where such a token stands in the answer does not
matter: an answer that ends with a tool's output keeps its outcome on all tokens before it. Keys
travel with the answers: groups are those that share a ticket, never those that stand together.

Knows records and numpy, not models. Called by the learner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from realnet.errors import RealnetError
from realnet.roles.algorithms.advantages import Array, equal_groups
from realnet.roles.algorithms.credit import credit
from realnet.roles.algorithms.presets import Rule
from realnet.roles.algorithms.shaping import overlong
from realnet.roles.messages import Group, Rollout, SampleKey, Scored, Segment, Version

Age = Callable[[Version], int]
Oldest = int | None


class BadRollout(RealnetError):
    """A rollout that cannot be trained on as it stands."""


@dataclass(slots=True)
class Sample:
    """One answer. Shapes: ids [L]; where, behave, ages, advantage [T]: what may carry gradient.

    `where` are positions in `ids` (never 0: nothing predicts the first token), `behave` the
    log-probabilities they were drawn with, `ages` in versions. `counted` is T plus the tokens that
    were masked. `reward` is as it was judged, and `worth` as it was shaped. `teaches` tells whether
    any token has a gradient at all; it is decided with `advantage`, by `give_credit`.
    """

    key: SampleKey
    reward: float
    worth: float
    ids: npt.NDArray[np.int64]
    where: npt.NDArray[np.int64]
    behave: npt.NDArray[np.float32]
    ages: npt.NDArray[np.int64]
    counted: int
    advantage: Array
    teaches: bool = False

    @property
    def row(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return what a forward pass needs: ids, and the positions asked for."""
        return self.ids, self.where

    @property
    def width(self) -> int:
        """Return how many tokens the model must read to predict the last one that counts."""
        return int(self.where[-1])


@dataclass(slots=True)
class Batch:
    """The judged answers of a batch, and what can be said about it before any forward pass."""

    samples: list[Sample]
    signs: dict[str, float] = field(default_factory=dict)


def lay_out(
    groups: Sequence[Group], age: Age, oldest: Oldest, rule: Rule, max_tokens: int
) -> Batch:
    """Lay out the answers of `groups`. Tokens older than `oldest` versions carry no gradient.

    Answers without a reward are counted, and left out of everything else.
    """
    scored = [(group.key, s) for group in groups for s in group.scored]
    ages: Counter[int] = Counter()
    samples = [_sample(s, age, oldest, ages) for _, s in scored if s.reward is not None]
    cut = {s.rollout.key for _, s in scored if s.rollout.stop == "length"}
    for sample in samples:
        if rule.overlong:
            sample.worth += overlong(
                sample.counted, max_tokens, rule.overlong, rule.overlong_penalty
            )
        if rule.truncated == "mask" and sample.key in cut:
            _mask(sample)
    known, flat = equal_groups([key for key, _ in scored], [s.reward for _, s in scored])
    judged = max(len(samples), 1)
    tokens = sum(ages.values())
    masked = 0 if oldest is None else sum(n for a, n in ages.items() if a > oldest)
    entropy = -sum(float(s.behave.sum()) for s in samples) / max(tokens - masked, 1)
    signs = {
        "reward": sum(s.reward for s in samples) / judged,
        "solved": sum(s.reward > 0.0 for s in samples) / judged,
        "samples": float(len(samples)),
        "unscored": float(len(scored) - len(samples)),
        "groups": float(len(groups)),
        "groups_equal": (flat + len(groups) - known) / max(len(groups), 1),
        "truncated": len(cut) / max(len(scored), 1),
        "response_tokens": tokens / judged,
        "tokens": float(tokens),
        "tokens_masked": masked / max(tokens, 1),
        "age_mean": sum(a * n for a, n in ages.items()) / max(tokens, 1),
        "entropy": entropy,
    }
    if rule.overlong:
        signs["overlong"] = sum(s.reward - s.worth for s in samples) / judged
    signs |= {f"age_{a}": n / max(tokens, 1) for a, n in sorted(ages.items())}
    return Batch(samples, signs)


def give_credit(batch: Batch, rule: Rule, penalties: Sequence[Array] | None = None) -> None:
    """Decide the advantage of every token, and which answers teach.

    `penalties` [n] of [T_i] are taken off the reward where they stand (none: a zero each). With a
    KL in the loss every answer with a token teaches; else only those with an advantage.
    """
    samples = batch.samples
    taken = penalties or [np.zeros(len(s.where)) for s in samples]
    worth = credit(
        [s.key.ticket for s in samples], [s.worth for s in samples], taken, rule.advantage
    )
    for sample, advantage in zip(samples, worth, strict=True):
        sample.advantage = advantage
        sample.teaches = len(sample.where) > 0 and (rule.kl == "loss" or bool(advantage.any()))


def _mask(sample: Sample) -> None:
    """Let an answer carry no gradient; its tokens count in the means as before."""
    sample.where, sample.ages = sample.where[:0], sample.ages[:0]
    sample.behave, sample.advantage = sample.behave[:0], sample.advantage[:0]


def _sample(scored: Scored, age: Age, oldest: Oldest, ages: Counter[int]) -> Sample:
    """Lay the segments of one rollout end to end, and count the ages of its tokens."""
    rollout, reward = scored.rollout, scored.reward or 0.0
    where: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    behave: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)]
    kept: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
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
            kept.append(old[young])
        start += len(segment.token_ids)
    ids = np.concatenate([np.empty(0, np.int64), *(s.token_ids for s in rollout.segments)])
    places = np.concatenate(where)
    return Sample(
        key=rollout.key,
        reward=reward,
        worth=reward,
        ids=ids.astype(np.int64),
        where=places,
        behave=np.concatenate(behave),
        ages=np.concatenate(kept),
        counted=counted,
        advantage=np.zeros(len(places)),
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
