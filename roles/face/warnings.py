"""What the last few steps show that a person should know, in words, and from which value on.

`LIMITS` are all thresholds; docs/vital-signs.md explains them, and a test holds the two together.
Values are means over the last `RECENT` steps, so that one odd batch warns of nothing.

Pure functions over rows. Called by the view and the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from realnet.roles.face.rows import Rows
from realnet.roles.face.words import percent, short

RECENT = 5  # steps that a mean is taken over
START = 5  # steps whose mean is what entropy is compared with
_SKIPS_WITHIN = 20  # steps in which a skipped one is still told


class Limit(NamedTuple):
    """A threshold: of which vital sign, from which value on, and what it means."""

    sign: str
    value: float
    meaning: str


LIMITS = {
    "equal groups": Limit("groups_equal", 0.8, "so many groups have one reward: nothing to learn"),
    "dropped groups": Limit("groups_unfit", 0.8, "dynamic sampling throws so many groups away"),
    "truncated": Limit("truncated", 0.3, "so many answers end at max_tokens, not by themselves"),
    "too old": Limit("tokens_masked", 0.1, "so many tokens are older than max_age: no gradient"),
    "effective samples": Limit("ess", 0.5, "importance weights leave fewer answers than this"),
    "ratio tail": Limit("ratio_tail", 0.05, "so many tokens are over twice as likely, or under"
                        " half, for the trainer as for the generator"),
    "generator KL": Limit("kl", 0.2, "generator and trainer are too far apart for stable steps"),
    "clipped": Limit("clip_fraction", 0.3, "so many tokens lie outside the trust region"),
    "not scored": Limit("unscored", 0.0, "more answers a step than this have no reward"),
    "entropy floor": Limit("entropy", 0.005, "answers hardly vary any more"),
    "entropy collapse": Limit("entropy", 0.1, "entropy fell below this share of the beginning's,"
                              " and the reward is not high"),
    "gradient jump": Limit("grad_norm", 10.0, "the gradient norm is so many times its usual"),
    "skipped steps": Limit("skipped", 0.0, "more steps than this had no finite loss"),
}  # fmt: skip


def warnings(rows: Rows, policy: Mapping[str, Any]) -> list[str]:
    """Return the warnings of the last few steps; `policy` is its table, for the keys they name."""
    found = [
        _equal(rows),
        _dropped(rows),
        _truncated(rows, policy),
        _too_old(rows, policy),
        _off_policy(rows),
        _tail(rows),
        _far(rows),
        _clipped(rows),
        _not_scored(rows),
        _entropy(rows),
        _jump(rows),
        _skipped(rows),
    ]
    return [text for text in found if text]


def _over(rows: Rows, name: str) -> float | None:
    """Return the recent value of a sign that has reached its limit."""
    value = rows.recent(LIMITS[name].sign, RECENT)
    return value if value is not None and value >= LIMITS[name].value else None


def _equal(rows: Rows) -> str:
    equal, reward = _over(rows, "equal groups"), rows.recent("reward", RECENT)
    if equal is None:
        return ""
    why = ""
    if reward is not None and (reward < 0.1 or reward > 0.9):
        why = f" (the problems are too {'hard' if reward < 0.1 else 'easy'})"
    return f"{percent(equal)} of groups have equal rewards: no signal{why}"


def _dropped(rows: Rows) -> str:
    kept = rows.recent("groups", RECENT) or 0.0
    unfit = rows.recent("groups_unfit", RECENT) or 0.0
    share = unfit / (unfit + kept) if kept > 0.0 else 0.0
    if share < LIMITS["dropped groups"].value:
        return ""
    return f"dynamic sampling drops {percent(share)} of groups, and the time they took"


def _truncated(rows: Rows, policy: Mapping[str, Any]) -> str:
    cut = _over(rows, "truncated")
    if cut is None:
        return ""
    return f"{percent(cut)} of answers are cut at max_tokens = {policy.get('max_tokens', '?')}"


def _too_old(rows: Rows, policy: Mapping[str, Any]) -> str:
    masked = _over(rows, "too old")
    if masked is None:
        return ""
    age = policy.get("max_age", "?")
    return f"{percent(masked)} of tokens are older than max_age = {age} and carry no gradient"


def _off_policy(rows: Rows) -> str:
    ess = rows.recent("ess", RECENT)
    if ess is None or ess >= LIMITS["effective samples"].value:
        return ""
    return f"effective sample size {percent(ess)}: answers are far from the policy"


def _tail(rows: Rows) -> str:
    tail = _over(rows, "ratio tail")
    if tail is None:
        return ""
    return (
        f"{percent(tail)} of tokens are over twice as likely, or under half, for the trainer as "
        "for the generator"
    )


def _far(rows: Rows) -> str:
    kl = _over(rows, "generator KL")
    if kl is None:
        return ""
    return f"KL {short(kl)} between generator and trainer: too much for stable steps"


def _clipped(rows: Rows) -> str:
    clipped = _over(rows, "clipped")
    return f"{percent(clipped)} of tokens are clipped: steps are too large" if clipped else ""


def _not_scored(rows: Rows) -> str:
    lost = rows.recent("unscored", RECENT) or 0.0
    return f"{short(lost)} answers a step could not be scored" if lost > 0 else ""


def _entropy(rows: Rows) -> str:
    entropy, reward = rows.recent("entropy", RECENT), rows.recent("reward", RECENT)
    if entropy is None:
        return ""
    if entropy < LIMITS["entropy floor"].value:
        return f"entropy {short(entropy)}: answers hardly vary any more"
    begun = [value for _, value in rows.curve("entropy")[:START]]
    if len(rows.steps) < START + RECENT or not begun or (reward is not None and reward > 0.8):
        return ""  # an answer that is known needs no variety
    first = sum(begun) / len(begun)
    if entropy >= LIMITS["entropy collapse"].value * first:
        return ""
    return (
        f"entropy collapsed from {short(first)} to {short(entropy)}, at reward {short(reward)}: "
        "little is tried out any more"
    )


def _jump(rows: Rows) -> str:
    norms = [value for _, value in rows.curve("grad_norm")[-21:]]
    if len(norms) < 6:
        return ""
    usual = median(norms[:-1])
    if usual <= 0 or norms[-1] < LIMITS["gradient jump"].value * usual:
        return ""
    return f"gradient norm {short(norms[-1])}, usually {short(usual)}"


def _skipped(rows: Rows) -> str:
    """Count the steps that were not taken of late; the count begins anew with each trainer."""
    counts = [0.0, *(value for _, value in rows.curve("skipped"))][-_SKIPS_WITHIN - 1 :]
    fresh = sum(b - a if b >= a else b for a, b in pairwise(counts))
    if fresh <= LIMITS["skipped steps"].value:
        return ""
    return f"{short(fresh)} steps were skipped of late: their loss was not finite (see failures/)"
