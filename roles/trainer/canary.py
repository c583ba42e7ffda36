"""The trainer's half of a canary: tokens, and what this policy gives them as it is now.

They travel with the version; each generator scores them once it has loaded it. A transfer that lost
a layer, a cast, a temperature or a tokenizer that differs shows before anything is trained on it.

Knows the learner's scores. Called by the trainer in its compute thread.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from realnet.roles.messages import Canary, Version

if TYPE_CHECKING:
    from realnet.roles.trainer.learner import Learner

_SEQUENCES = 2
_TOKENS = 24


def make_canary(learner: Learner, version: Version) -> Canary | None:
    """Return a canary of other tokens for each version; None where the learner cannot score them.

    A sharded learner scores at the policy's temperature only, and a canary is of temperature 1.
    """
    policy = learner.policy
    draw = random.Random(f"{version}")
    length = min(_TOKENS, policy.context - 1)
    ids = range(learner.tokenizer.vocab_size)
    sequences = [draw.choices(ids, k=length) for _ in range(_SEQUENCES)]
    rows = [(np.array(s, np.int64), np.arange(1, length, dtype=np.int64)) for s in sequences]
    if policy.temperature == 1.0:
        scored = [row.tolist() for row in learner.score(rows)]
    elif learner.config.backend == "fsdp":
        return None
    else:
        with torch.no_grad():
            flat = learner.scorer.logprobs(rows, temperature=1.0).cpu().numpy()
        scored = flat.reshape(_SEQUENCES, length - 1).tolist()
    exact = policy.dtype == "fp32" and learner.config.autocast == "off"
    return Canary(tuple(map(tuple, sequences)), tuple(map(tuple, scored)), exact)
