"""What a good answer is: reward functions, and a pool of processes that may die instead of us.

A reward is a function `fn(prompt, text, answer) -> float`, plain or async: built in ("exact",
"numeric", "math", "format", "length"), in a file beside the topology ("my_rewards.py:short"), or in
an installed package ("pkg.mod:fn"). One that crashes, hangs or blows a limit is tried again in a
fresh process and then reported as unscored; no score is ever made up for it.

Knows nothing of actors, models or the network. Used by the rewarder, `try` and `check`.
"""

from realnet.roles.rewards.pool import RewardPool, Unscored
from realnet.roles.rewards.references import check_reference, resolve
from realnet.roles.rewards.scoring import score

__all__ = ["RewardPool", "Unscored", "check_reference", "resolve", "score"]
