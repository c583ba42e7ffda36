"""The evaluator: measures versions of a policy on held-out problems.

Knows tasks, versions and how to ask a driver and a rewarder. Knows nothing of engines, weights'
bytes or steps of training; a run without it trains just the same.
"""

from realnet.roles.evaluator.evaluator import Evaluator, EvaluatorConfig

__all__ = ["Evaluator", "EvaluatorConfig"]
