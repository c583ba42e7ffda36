"""What one evaluation of one task found: shares, means, and a few samples to read.

Knows records and arithmetic. Knows nothing of asking or of files. Called by `evaluator.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realnet.roles.messages import Rollout, Scored, Version
from realnet.roles.samples import GREEDY, SAMPLED, TEXT_CHARS, sample_row
from realnet.roles.tables import Task
from realnet.roles.tasks import Problem


class Measure:
    """Gathers the scored answers of one task. `missing` says why problems have none."""

    def __init__(self, name: str, task: Task, num_problems: int, num_samples: int) -> None:
        self.name = name
        self.missing: list[str] = []
        self._samples: list[dict[str, Any]] = []
        self._sampled = SAMPLED if task.temperature > 0.0 else GREEDY
        self._main = max(task.reward, key=lambda reference: task.reward[reference])
        self._num_problems, self._num_kept = num_problems, num_samples
        self._solved: list[float] = []  # for each problem, the share of right answers
        self._greedy: list[float] = []  # the same of answers without chance
        self._rewards: list[float] = []
        self._lengths: list[int] = []
        self._versions: set[int] = set()

    @property
    def num_measured(self) -> int:
        """Return how many problems have at least one scored answer."""
        return len(self._solved)

    def add(self, index: int, problem: Problem, answers: Sequence[Scored]) -> None:
        """Enter the answers to one problem. Those without a score count for nothing."""
        right = self._right(answers)
        for scored in answers:
            if scored.reward is not None:
                self._rewards.append(scored.reward)
                self._lengths.append(_num_written(scored.rollout))
        if right:
            self._solved.append(_mean(right))
        if index < self._num_kept:
            self._keep(index, problem, answers, self._sampled)

    def add_greedy(self, index: int, problem: Problem, answers: Sequence[Scored]) -> None:
        """Enter the greedy answer to one problem."""
        right = self._right(answers)
        if right:
            self._greedy.append(_mean(right))
        if index < self._num_kept:
            self._keep(index, problem, answers, GREEDY)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Return an answer of each kind to the first problems, in their order."""
        return sorted(self._samples, key=lambda row: (row["problem"], row["decoding"] == GREEDY))

    def _right(self, answers: Sequence[Scored]) -> list[float]:
        """Return 1 or 0 of each answer that was judged; the others are missing."""
        right: list[float] = []
        for scored in answers:
            if scored.reward is None:
                self.missing.append(scored.fault)
                continue
            # right means that the reward that weighs most is full; the others are nuances
            right.append(float(scored.parts.get(self._main, scored.reward) >= 1.0))
            self._versions |= _versions(scored.rollout)
        return right

    def row(self) -> dict[str, float]:
        """Return the values for metrics.jsonl; none when nothing could be measured."""
        if not self._solved:
            return {}
        values = {
            "pass@1": _mean(self._solved),
            "reward": _mean(self._rewards),
            "length": _mean(self._lengths),
        }
        if self._greedy:
            values["greedy"] = _mean(self._greedy)
        return {f"eval/{self.name}/{key}": value for key, value in values.items()}

    def line(self, version: Version) -> str:
        """Return the line for a person."""
        measured = self.num_measured
        if not measured:
            why = f": {self.missing[0]}" if self.missing else ""
            return f"{self.name} could not be measured at step {version.number}{why}"
        count = f"{measured} problems"
        if measured < self._num_problems:
            count = f"{measured} of {self._num_problems} problems; {self.missing[0]}"
        greedy = f", greedy {_mean(self._greedy):.2f}" if self._greedy else ""
        text = f"{self.name} pass@1 {_mean(self._solved):.2f}{greedy}"
        text += f" ({count}) at step {version.number}"
        if self._versions and self._versions != {version.number}:
            low, high = min(self._versions), max(self._versions)
            text += f", written by version {low}" + (f" to {high}" if high > low else "")
        return text

    def _keep(self, index: int, problem: Problem, answers: Sequence[Scored], decoding: str) -> None:
        self._samples += [
            {
                **sample_row(scored),
                "task": self.name,
                "problem": index,
                "decoding": decoding,
                "source": problem.source,
                "prompt": problem.prompt[:TEXT_CHARS],
                "answer": problem.answer[:TEXT_CHARS],
            }
            for scored in answers[:1]
        ]


def _num_written(rollout: Rollout) -> int:
    return sum(len(s.token_ids) for s in rollout.segments if s.origin == "model")


def _versions(rollout: Rollout) -> set[int]:
    return {span.version.number for segment in rollout.segments for span in segment.spans}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
