"""Which algorithms the stability study compares, and in which order it runs them.

Knows names and keys of `[roles.trainer]`. Called by `stability.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stability_run import Setting

ETAS = (0, 1, 2, 4, 8, 16)
NAIVE = {"loss": {"proximal": "behave"}}

FREE = [1.0, 1e9]  # no bound on the ratio to the writer
MASKED = {"proximal": "recompute", "weight": "mask", "weight_cap": 5.0, "behave_clip": FREE}
DECOUPLED = {"loss": {**MASKED, "weight": "clamp", "weight_cap": 2.0}}
TABLE: dict[str, dict[str, Any]] = {
    "naive": NAIVE,
    "decoupled": DECOUPLED,
    "tis": {"algorithm": "tis"},
    "cispo": {"algorithm": "cispo", "loss": {"advantage": "rloo"}},
    "default": {},
}
# What decoupled PPO lacks: each changes one thing of "masked", which is AReaL's form.
CAUSE: dict[str, dict[str, Any]] = {
    "masked": {"loss": MASKED},
    "masked, near .2": {"loss": {**MASKED, "behave_clip": [0.2, 0.2]}},
    "masked, near .5-1": {"loss": {**MASKED, "behave_clip": [0.5, 1.0]}},
    "weights <= 1.05": {"loss": {**MASKED, "weight": "clamp", "weight_cap": 1.05}},
    "naive": NAIVE,
}
STUDIES: dict[str, tuple[dict[str, dict[str, Any]], tuple[int, ...]]] = {
    "table": (TABLE, ETAS),
    "cause": (CAUSE, (16, 4)),
}


def settings(study: str, seeds: int, warm_starts: int, steps: int) -> Iterator[Setting]:
    """Return all runs of a study, a round of all algorithms for each seed."""
    algorithms, etas = STUDIES[study]
    for seed in range(seeds):
        for eta in etas:
            for name, rule in algorithms.items():
                yield Setting(name, rule, eta, seed % warm_starts, seed, steps)
