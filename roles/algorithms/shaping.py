"""What is done to rewards before they are compared, and which groups are worth training on.

Knows numbers, not answers or records; imports no torch. Called by the learner and the assembly.
"""

from __future__ import annotations

from collections.abc import Sequence


def overlong(tokens: int, longest: int, share: float, penalty: float) -> float:
    """Return what a long answer loses: 0 at first, `penalty` at `longest` tokens, even between.

    The loss begins `share` of `longest` before its end. Source: soft overlong punishment, DAPO
    (arXiv 2503.14476), eq. 13, where the share is 4096 of 20480 and the penalty 1.
    """
    tail = share * longest
    over = (tokens - (longest - tail)) / tail
    return -penalty * min(max(over, 0.0), 1.0)


def uninformative(
    rewards: Sequence[float | None], between: tuple[float, float] | None = None
) -> str:
    """Return why a group of answers is not worth a place in the batch; "" when it is.

    Equal rewards give no gradient under the rules that compare inside groups. With `between` =
    (low, high) the mean reward must lie strictly between. Unscored answers do not count.
    Source: dynamic sampling, DAPO (arXiv 2503.14476), eq. 11.
    """
    judged = [reward for reward in rewards if reward is not None]
    if not judged:
        return "no answer could be judged"
    if min(judged) == max(judged):
        return f"all rewards are {judged[0]:g}"
    mean = sum(judged) / len(judged)
    if between is not None and not between[0] < mean < between[1]:
        return f"mean reward {mean:.3g} is not between {between[0]:g} and {between[1]:g}"
    return ""
