"""Named algorithms as visible fields: `algorithm = "grpo"` says what every field of it is.

A field that the user gives wins over the preset. `expand` is the only place where defaults of the
loss live, and `opened` shows them: what is written there reads back as the same rule. Fields that
contradict each other are refused in `contradictions.py`.

Knows nothing of models or torch. Called by the learner's config and by whoever explains a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from realnet.config import Config, doc
from realnet.roles.algorithms.contradictions import Contradiction, refuse

__all__ = ["PRESETS", "Algorithm", "Contradiction", "Loss", "Rule", "expand", "opened"]

Algorithm = Literal[
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "dapo",
    "gspo",
    "cispo",
    "tis",
]
Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]
Proximal = Literal["recompute", "loglinear", "behave", "current"]
Bound = Literal["mask", "clamp", "off"]
Level = Literal["token", "sequence", "geometric"]


class Loss(Config):
    """`loss` of a trainer. A field that is left out is what `algorithm` says (see `PRESETS`)."""

    advantage: Annotated[
        Advantage | None, doc("how rewards become advantages: inside groups, or over the batch")
    ] = None
    objective: Annotated[
        Literal["clip", "cispo"] | None,
        doc("a bound on the ratio takes the gradient away (PPO), or only limits its weight"),
    ] = None
    ratio: Annotated[
        Literal["token", "sequence"] | None, doc("of each token, or one for an answer (GSPO)")
    ] = None
    clip: Annotated[
        tuple[float, float] | None, doc("the ratio stays in [1 - low, 1 + high]: [low, high]")
    ] = None
    behave_clip: Annotated[
        tuple[float, float] | None,
        doc(
            "a token whose probability has left [1 - low, 1 + high] times what it was drawn with "
            "is not pushed further out: [low, high]; [1, inf]: no bound"
        ),
    ] = None
    dual_clip: Annotated[
        float | None, doc("the loss of a bad token is at most so many times its advantage")
    ] = None
    proximal: Annotated[
        Proximal | None,
        doc(
            "what the ratio is centred on: the policy just before the step (by a forward pass, or "
            "estimated from ages), the one that wrote the token, or the current one (no ratio)"
        ),
    ] = None
    weight: Annotated[
        Bound | None, doc("importance weights beyond the cap: dropped, held at it; off: no weights")
    ] = None
    weight_cap: Annotated[float | None, doc("largest importance weight, above 1")] = None
    weight_floor: Annotated[float | None, doc("smallest importance weight, below 1")] = None
    weight_level: Annotated[
        Level | None, doc("of each token, the product over an answer, or its geometric mean")
    ] = None
    normalise: Annotated[
        Literal["tokens", "sequences", "constant"] | None,
        doc("each token weighs the same, each answer does, or each token 1 / normalise_by"),
    ] = None
    normalise_by: Annotated[
        int | Literal["max_tokens"] | None, doc("tokens that a constant mean divides by")
    ] = None
    kl: Annotated[
        Literal["off", "loss", "reward"] | None, doc("where the KL to the reference is put")
    ] = None
    kl_beta: Annotated[float | None, doc("how much the KL counts")] = None
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"] | None, doc("of the KL, from the tokens at hand")
    ] = None
    overlong: Annotated[
        float | None, doc("share of max_tokens at its end over which rewards fall; 0: they do not")
    ] = None
    overlong_penalty: Annotated[float | None, doc("what an answer of max_tokens loses")] = None
    truncated: Annotated[
        Literal["learn", "mask"] | None, doc("answers that ended at a limit: learnt from, or not")
    ] = None
    dynamic_sampling: Annotated[
        bool | None, doc("drop groups with equal rewards, and ask for others instead")
    ] = None
    mean_between: Annotated[
        tuple[float, float] | None, doc("keep only groups with a mean reward between these")
    ] = None


class Rule(msgspec.Struct, frozen=True):
    """An algorithm with every field decided. Fields mean what they mean in `Loss`."""

    advantage: Advantage
    objective: Literal["clip", "cispo"]
    ratio: Literal["token", "sequence"]
    clip: tuple[float, float] | None  # None: there is no ratio to bound
    behave_clip: tuple[float, float] | None  # None: nothing holds the policy near who wrote
    dual_clip: float | None
    proximal: Proximal
    weight: Bound
    weight_cap: float
    weight_floor: float
    weight_level: Level
    normalise: Literal["tokens", "sequences", "constant"]
    normalise_by: int | Literal["max_tokens"]
    kl: Literal["off", "loss", "reward"]
    kl_beta: float
    kl_estimator: Literal["k1", "k2", "k3"]
    overlong: float
    overlong_penalty: float
    truncated: Literal["learn", "mask"]
    dynamic_sampling: bool
    mean_between: tuple[float, float] | None


# Decoupled PPO with masked weights: right for tokens of any age, and plain PPO for fresh ones. What
# `_near` adds keeps it stable when all tokens are old: without it the policy drifts many times as
# far from the one that wrote its batch, and falls (BENCHMARKS.md, stability).
_COMMON: dict[str, Any] = {
    "objective": "clip",
    "ratio": "token",
    "clip": (0.2, 0.2),
    "proximal": "recompute",
    "weight": "mask",
    "weight_cap": 5.0,
    "normalise": "tokens",
}
# The KL is off in all of them: it needs a reference, which only the user can choose.
PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {**_COMMON, "advantage": "grpo", "normalise": "sequences"},
    "dr_grpo": {
        **_COMMON,
        "advantage": "dr_grpo",
        "normalise": "constant",
        "normalise_by": "max_tokens",
    },
    "rloo": {**_COMMON, "advantage": "rloo"},
    "reinforce_pp": {**_COMMON, "advantage": "reinforce_pp"},
    "reinforce_pp_baseline": {**_COMMON, "advantage": "reinforce_pp_baseline"},
    "dapo": {
        **_COMMON,
        "advantage": "grpo",
        "clip": (0.2, 0.28),
        "overlong": 0.2,
        "dynamic_sampling": True,
    },
    "gspo": {
        **_COMMON,
        "advantage": "grpo",
        "ratio": "sequence",
        "clip": (3e-4, 4e-4),
        "weight_level": "geometric",
        "normalise": "sequences",
    },
    # The bounded ratio to the policy that wrote the token is itself the importance weight.
    "cispo": {
        **_COMMON,
        "advantage": "grpo",
        "objective": "cispo",
        "clip": (1.0, 4.0),
        "proximal": "behave",
    },
    "tis": {
        **_COMMON,
        "advantage": "rloo",
        "proximal": "current",
        "weight": "clamp",
        "weight_cap": 2.0,
    },
}
# What a field is when neither preset nor user speaks of it.
_NEUTRAL: dict[str, Any] = {
    "clip": None,
    "behave_clip": None,
    "dual_clip": None,
    "weight_cap": 5.0,
    "weight_floor": 0.0,
    "weight_level": "token",
    "normalise_by": "max_tokens",
    "kl": "off",
    "kl_beta": 0.0,
    "kl_estimator": "k3",
    "overlong": 0.0,
    "overlong_penalty": 1.0,
    "truncated": "learn",
    "dynamic_sampling": False,
    "mean_between": None,
}


# Fields that do nothing when another one has one of these values.
_IDLE: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "clip": ("proximal", ("current",)),
    "dual_clip": ("proximal", ("current",)),
    "weight_cap": ("weight", ("off",)),
    "weight_floor": ("weight", ("off",)),
    "weight_level": ("weight", ("off",)),
    "normalise_by": ("normalise", ("tokens", "sequences")),
    "kl_beta": ("kl", ("off",)),
    "kl_estimator": ("kl", ("off",)),
    "overlong_penalty": ("overlong", (0.0,)),
}


def expand(algorithm: Algorithm, loss: Loss) -> Rule:
    """Return the algorithm with the user's fields in place; raises Contradiction."""
    given = {
        field.name: value
        for field in msgspec.structs.fields(Loss)
        if (value := getattr(loss, field.name)) is not None
    }
    merged = {**PRESETS[algorithm], **given}
    if merged["proximal"] == "behave" and "weight" not in given:
        merged["weight"] = "off"  # the weight is proximal / behave, which is 1 then
    if "behave_clip" not in given:
        merged["behave_clip"] = _near(merged)
    for key, (other, values) in _IDLE.items():
        if merged.get(other, _NEUTRAL.get(other)) in values and key not in given:
            merged.pop(key, None)
    if merged.get("kl") == "reward":
        merged.setdefault("kl_estimator", "k1")
    refuse(merged, given)
    return Rule(**{**_NEUTRAL, **merged})


def _near(merged: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the bound on the ratio to the writer when the user says nothing of it.

    It is the clip, so that a fresh token is bound as in plain PPO. None where the clipped ratio is
    the one to the writer, where there is none, and where the clip is a bound of another kind.
    """
    if merged["proximal"] in ("behave", "current") or merged["objective"] == "cispo":
        return None
    clip: tuple[float, float] | None = merged.get("clip")
    return None if merged["ratio"] == "sequence" else clip


def opened(rule: Rule) -> Loss:
    """Return the table that says all that the rule does; fields without effect are left out.

    `expand` of any algorithm with this table is the same rule again.
    """
    shown = msgspec.structs.asdict(rule)
    for key, (other, values) in _IDLE.items():
        if shown[other] in values:
            shown[key] = None
    return Loss(**shown)
