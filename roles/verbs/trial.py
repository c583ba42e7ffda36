"""What a trial of one task found: groups with signal, what was cut, what could not be judged.

Knows records and arithmetic. Knows nothing of engines, files or terminals. Called by `try`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from realnet.roles.messages import Rollout, Scored

_KIND = re.compile(
    r"reward '[^']*' (?:raised \w+|ran [\d.]+ s|returned \w+(?: \w+)?|\w+(?: \w+){0,3})"
)


@dataclass
class Asked:
    """One prompt, as it reads and as the model was given it (`text`), and the scored answers."""

    number: int
    source: str
    prompt: str
    text: str
    num_tokens: int
    answer: str
    scored: list[Scored] = field(default_factory=list)

    @property
    def rewards(self) -> list[float]:
        """Return the rewards of the answers that could be judged."""
        return [s.reward for s in self.scored if s.reward is not None]

    @property
    def has_signal(self) -> bool:
        """Tell whether the rewards of the group are not all equal: only then it teaches."""
        return len(set(self.rewards)) > 1


class Trial:
    """The prompts of one task. `refused` says of which problems no prompt could be made."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.asked: list[Asked] = []
        self.refused: list[str] = []

    @property
    def scored(self) -> list[Scored]:
        """Return all answers."""
        return [scored for asked in self.asked for scored in asked.scored]

    @property
    def signal(self) -> float:
        """Return the share of groups that carry signal."""
        return _share(asked.has_signal for asked in self.asked)

    def faults(self) -> list[tuple[str, int, str]]:
        """Return (kind, count, one whole text) of what went wrong with rewards, most first."""
        texts: dict[str, list[str]] = {}
        for scored in self.scored:
            for text in filter(None, scored.fault.split("; reward ")):
                whole = text if text.startswith("reward ") else f"reward {text}"
                found = _KIND.match(whole)
                texts.setdefault(found[0] if found else whole[:80], []).append(whole)
        counted = Counter({kind: len(found) for kind, found in texts.items()})
        return [(kind, count, texts[kind][0]) for kind, count in counted.most_common()]

    def lines(self) -> list[str]:
        """Return in words what a run would make of this task."""
        answers = self.scored
        if not answers:
            return [f"{self.task}: no prompt could be asked"]
        rewards = [reward for asked in self.asked for reward in asked.rewards]
        cut = _share(scored.rollout.stop == "length" for scored in answers)
        length = sum(num_written(scored.rollout) for scored in answers) / len(answers)
        group = max(len(asked.scored) for asked in self.asked)
        lines = [
            f"{self.task}: {self.signal:.0%} of groups carry signal "
            f"({len(self.asked)} prompts, {group} answers each)",
            f"{cut:.0%} of answers are cut at their longest; mean length {length:.1f} tokens",
        ]
        if rewards:
            lines.insert(1, f"mean reward {sum(rewards) / len(rewards):.3f}")
        if unscored := len(answers) - len(rewards):
            lines.append(f"{unscored} of {len(answers)} answers could not be judged")
        return [*lines, *self._advice(rewards, cut, group)]

    def _advice(self, rewards: list[float], cut: float, group: int) -> Iterator[str]:
        """Yield what to do about it."""
        if group < 2:
            yield "one answer a prompt cannot show signal: --answers says how many to write"
        elif rewards and self.signal < 0.2:
            if len(set(rewards)) == 1:
                yield f"every answer has the reward {rewards[0]:g}: there is nothing to learn from"
            else:
                yield "most groups have equal rewards: the problems are too hard or too easy"
        if cut >= 0.3:
            yield "many answers are cut: raise [policy].max_tokens, or ask for shorter ones"


def num_written(rollout: Rollout) -> int:
    """Return how many tokens of a rollout a model wrote."""
    return sum(len(s.token_ids) for s in rollout.segments if s.origin == "model")


def _share(values: Iterator[bool]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0
