"""The rewarder: scores rollouts in processes that may die.

Knows tasks' rewards. Knows nothing of models, weights, steps or the ledger.
"""

from realnet.roles.rewarder.rewarder import Rewarder, RewarderConfig

__all__ = ["Rewarder", "RewarderConfig"]
