"""The trainer's half of a canary: tokens, and what this policy gives them as it is now.

They travel with the version; each generator scores them once it has loaded it. A transfer that lost
a layer, a cast, a temperature or a tokenizer that differs shows before anything is trained on it.

Knows the learner's scores. Called by the trainer in its compute thread.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from realnet.roles.messages import Canary, Version

if TYPE_CHECKING:
    from realnet.roles.trainer.learner import Learner

_SEQUENCES = 2
_TOKENS = 24


def make_canary(learner: Learner, version: Version) -> Canary:
    """Return a canary of other tokens for each version, scored at temperature 1."""
    policy = learner.policy
    draw = random.Random(f"{version}")
    length = min(_TOKENS, policy.context - 1)
    ids = range(learner.tokenizer.vocab_size)
    sequences = [draw.choices(ids, k=length) for _ in range(_SEQUENCES)]
    rows = [(np.array(s, np.int64), np.arange(1, length, dtype=np.int64)) for s in sequences]
    scored = [row.tolist() for row in learner.score(rows, temperature=1.0)]
    exact = policy.dtype == "fp32" and learner.config.autocast == "off"
    return Canary(tuple(map(tuple, sequences)), tuple(map(tuple, scored)), exact)
