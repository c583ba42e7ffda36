"""Named algorithms as visible fields: `algorithm = "grpo"` says what every field of it is.

A field that the user gives wins over the preset, unless the two contradict each other: then the
table is refused, with the keys named. `expand` is the only place where defaults of the loss live.

Knows nothing of models or torch. Called by the learner's config and by whoever explains a table.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from realnet.config import Config, doc
from realnet.errors import ConfigError

Algorithm = Literal["grpo", "dr_grpo", "rloo"]


class Contradiction(ConfigError, ValueError):
    """Two keys of a table that cannot both hold. A ValueError too: a table's reader adds where."""


class Loss(Config):
    """`loss` of a trainer. A field that is left out is what `algorithm` says (see `PRESETS`)."""

    clip: Annotated[
        tuple[float, float] | None, doc("the ratio stays in [1 - low, 1 + high]: [low, high]")
    ] = None
    decoupled: Annotated[
        bool | None, doc("clip around the policy just before the step, weigh by its age")
    ] = None
    proximal: Annotated[
        Literal["recompute", "off"] | None,
        doc("where the policy just before the step comes from: a forward pass, or nowhere"),
    ] = None
    weight_cap: Annotated[float | None, doc("largest importance weight, above 1")] = None
    weight_mode: Annotated[
        Literal["mask", "clamp"] | None, doc("tokens above the cap: no gradient, or the cap")
    ] = None
    normalise: Annotated[
        Literal["tokens", "sequences", "constant"] | None,
        doc("each token weighs the same, each answer does, or each token 1 / max_tokens"),
    ] = None


class Settled(msgspec.Struct, frozen=True):
    """An algorithm with every field decided."""

    advantage: Literal["grpo", "dr_grpo", "rloo"]
    clip: tuple[float, float]
    decoupled: bool
    proximal: Literal["recompute", "off"]
    weight_cap: float
    weight_mode: Literal["mask", "clamp"]
    normalise: Literal["tokens", "sequences", "constant"]


_COMMON: dict[str, Any] = {
    "clip": (0.2, 0.2),
    "decoupled": True,
    "weight_cap": 5.0,
    "weight_mode": "mask",
}
PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {**_COMMON, "advantage": "grpo", "clip": (0.2, 0.28), "normalise": "tokens"},
    "dr_grpo": {**_COMMON, "advantage": "dr_grpo", "normalise": "constant"},
    "rloo": {**_COMMON, "advantage": "rloo", "normalise": "tokens"},
}


def expand(algorithm: Algorithm, loss: Loss) -> Settled:
    """Return the algorithm with the user's fields in place; raises Contradiction."""
    given = {
        field.name: value
        for field in msgspec.structs.fields(Loss)
        if (value := getattr(loss, field.name)) is not None
    }
    merged = {**PRESETS[algorithm], **given}
    merged.setdefault("proximal", "recompute" if merged["decoupled"] else "off")
    _refuse(merged, given)
    return Settled(**merged)


def _refuse(merged: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise Contradiction for fields that cannot both hold."""
    low, high = merged["clip"]
    if not 0.0 < low < 1.0 or not high > 0.0:
        raise Contradiction(
            f"loss.clip = [{low}, {high}]: write [low, high] with 0 < low < 1 and high > 0"
        )
    if merged["decoupled"] and merged["proximal"] == "off":
        raise Contradiction(
            'loss.decoupled = true needs the policy just before the step, but loss.proximal = "off"'
            ' gives none: set loss.proximal = "recompute" or loss.decoupled = false'
        )
    if not merged["decoupled"]:
        if given.get("proximal") == "recompute":
            raise Contradiction(
                'loss.proximal = "recompute" would be computed and not used, since loss.decoupled '
                "= false: remove one of the two"
            )
        for key in ("weight_cap", "weight_mode"):
            if key in given:
                raise Contradiction(
                    f"loss.{key} bounds the importance weight, but loss.decoupled = false applies "
                    f"none: remove loss.{key} or set loss.decoupled = true"
                )
    if not merged["weight_cap"] > 1.0:
        raise Contradiction(
            f"loss.weight_cap = {merged['weight_cap']} would drop tokens of the current policy, "
            "whose weight is 1: give more than 1"
        )
