"""Which fields of a loss table cannot both hold, and how that is told.

A configuration that is half on is refused: one that asks for something and leaves out what it
needs, or sets a field that nothing will read. Every text names the keys and a way out.

Knows names and values, not what they do. Called by `presets` and by the trainer's check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realnet.errors import ConfigError


class Contradiction(ConfigError, ValueError):
    """Two keys of a table that cannot both hold. A ValueError too: a table's reader adds where."""


def refuse(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise Contradiction for fields that cannot both hold.

    `merged` is the preset with the user's fields in place, without those that have no effect;
    `given` are the user's.
    """
    _ratio(merged, given)
    _near(merged)
    _weights(merged, given)
    _mean(merged, given)
    _kl(merged, given)
    _groups(merged, given)


def refuse_reference(kl: str, beta: float, reference: str) -> None:
    """Raise Contradiction for a KL without anything to be near to."""
    if kl != "off" and not reference:
        raise Contradiction(
            f'loss.kl = "{kl}" (loss.kl_beta = {beta:g}) needs a policy to be near to, but '
            'reference is not set: write reference = "start" (the policy as it was at step 0) or '
            'a model folder, or set loss.kl = "off"'
        )


def refuse_policy(
    *, proximal: str, weight: str, compares: bool, dynamic: bool, max_age: int, group: int
) -> None:
    """Raise Contradiction for a rule that does not fit what `[policy]` says."""
    if max_age > 0 and proximal != "behave" and weight == "off":
        raise Contradiction(
            f'loss.weight = "off" with loss.proximal = "{proximal}" ignores that tokens may be '
            f"{max_age} versions old ([policy].max_age): nothing would correct for the policy that "
            'wrote them. Set loss.weight = "mask" or "clamp", or loss.proximal = "behave" (the '
            "ratio itself corrects), or [policy].max_age = 0"
        )
    if group < 2 and (compares or dynamic):
        what = "loss.dynamic_sampling" if dynamic and not compares else "loss.advantage"
        raise Contradiction(
            f"[policy].group = {group}: the answers of a group are compared with each other "
            f"({what}), and one alone teaches nothing: write 2 or more, or loss.advantage = "
            '"reinforce_pp", which compares over the batch'
        )


def _ratio(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if merged["proximal"] == "current":
        for key in ("clip", "dual_clip", "ratio", "objective"):
            neutral = {"ratio": "token", "objective": "clip"}.get(key)
            if merged.get(key, neutral) != neutral:
                raise Contradiction(
                    f"loss.{key} = {_toml(merged[key])} is about a ratio, but loss.proximal = "
                    f'"current" leaves none (it is always 1): remove loss.{key}, or set '
                    'loss.proximal = "recompute"'
                )
        return
    low, high = merged["clip"]
    most = 1.0 if merged["objective"] == "cispo" else 0.999999
    if not 0.0 < low <= most or not high > 0.0:
        raise Contradiction(
            f"loss.clip = [{low}, {high}]: write [low, high] with 0 < low < 1 and high > 0"
            + (' (low = 1 with loss.objective = "cispo": no lower bound)' if low == 1.0 else "")
        )
    dual = merged.get("dual_clip")
    if dual is not None and merged["objective"] == "cispo":
        raise Contradiction(
            'loss.dual_clip bounds the loss of loss.objective = "clip", and "cispo" has another '
            "one: remove loss.dual_clip"
        )
    if dual is not None and not dual > 1.0 + high:
        raise Contradiction(
            f"loss.dual_clip = {dual:g} would hold tokens inside loss.clip: give more than "
            f"{1.0 + high:g}"
        )


def _near(merged: Mapping[str, Any]) -> None:
    bound = merged.get("behave_clip")
    if bound is None:
        return
    low, high = bound
    if not 0.0 < low <= 1.0 or not high > 0.0:
        raise Contradiction(
            f"loss.behave_clip = [{low}, {high}]: write [low, high] with 0 < low <= 1 (1: no lower "
            "bound) and high > 0"
        )
    if merged["proximal"] == "behave" and merged["objective"] == "clip":
        raise Contradiction(
            'loss.behave_clip bounds the same ratio as loss.clip with loss.proximal = "behave": '
            "remove one of them"
        )


def _weights(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if merged["proximal"] == "behave" and merged["weight"] != "off":
        raise Contradiction(
            f'loss.weight = "{merged["weight"]}" weighs proximal / behave, which is always 1 with '
            'loss.proximal = "behave": remove loss.weight or set loss.proximal = "recompute"'
        )
    if merged["weight"] == "off":
        for key in ("weight_cap", "weight_floor", "weight_level"):
            if key in given:
                why = (
                    'loss.proximal = "behave" needs none'
                    if merged["proximal"] == "behave"
                    else 'loss.weight = "off" applies none'
                )
                raise Contradiction(
                    f"loss.{key} is about the importance weight, but {why}: remove loss.{key}, or "
                    'set loss.proximal = "recompute" and loss.weight = "mask" or "clamp"'
                )
        return
    cap, floor = merged["weight_cap"], merged.get("weight_floor", 0.0)
    if not cap > 1.0:
        raise Contradiction(
            f"loss.weight_cap = {cap} would drop tokens of the current policy, whose weight is 1: "
            "give more than 1"
        )
    if not 0.0 <= floor < 1.0:
        raise Contradiction(
            f"loss.weight_floor = {floor} would drop tokens of the current policy, whose weight is "
            "1: give 0 or more and less than 1"
        )


def _mean(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    by = merged.get("normalise_by")
    if merged["normalise"] == "constant" and by is None:
        raise Contradiction(
            'loss.normalise = "constant" divides by a number of tokens, and loss.normalise_by '
            'gives none: write loss.normalise_by = "max_tokens" or a number'
        )
    if merged["normalise"] != "constant" and by is not None:
        raise Contradiction(
            f"loss.normalise_by = {_toml(by)} is not read with loss.normalise = "
            f'"{merged["normalise"]}": remove it, or set loss.normalise = "constant"'
        )
    if isinstance(by, int) and by < 1:
        raise Contradiction(f"loss.normalise_by = {by}: give 1 or more tokens")


def _kl(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    kl = merged.get("kl", "off")
    if kl == "off":
        for key in ("kl_beta", "kl_estimator"):
            if key in given:
                raise Contradiction(
                    f'loss.{key} has no effect with loss.kl = "off": remove it, or set loss.kl = '
                    '"loss" or "reward" (and a reference)'
                )
        return
    beta = merged.get("kl_beta", 0.0)
    if not beta > 0.0:
        raise Contradiction(
            f'loss.kl = "{kl}" with loss.kl_beta = {beta:g} has no effect: give a number above 0 '
            '(0.001 to 0.1 are usual), or set loss.kl = "off"'
        )
    if kl == "loss" and merged.get("kl_estimator") == "k1":
        raise Contradiction(
            'loss.kl_estimator = "k1" with loss.kl = "loss": the gradient of k1 is zero on '
            'average, so it would hold nothing: use "k2" or "k3", or loss.kl = "reward"'
        )


def _groups(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    share, penalty = merged.get("overlong", 0.0), merged.get("overlong_penalty", 1.0)
    if not 0.0 <= share <= 1.0:
        raise Contradiction(f"loss.overlong = {share}: it is a share of max_tokens, 0 to 1")
    if share == 0.0 and "overlong_penalty" in given:
        raise Contradiction(
            "loss.overlong_penalty is not read with loss.overlong = 0: remove it, or give "
            "loss.overlong a share of max_tokens, for example 0.2"
        )
    if not penalty > 0.0:
        raise Contradiction(f"loss.overlong_penalty = {penalty}: give a number above 0")
    between = merged.get("mean_between")
    if between is None:
        return
    if not merged.get("dynamic_sampling", False):
        raise Contradiction(
            "loss.mean_between says which groups to keep, but loss.dynamic_sampling = false keeps "
            "all: set it to true, or remove loss.mean_between"
        )
    if not between[0] < between[1]:
        raise Contradiction(
            f"loss.mean_between = [{between[0]}, {between[1]}] keeps nothing: write [low, high]"
        )


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
