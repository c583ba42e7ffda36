"""Where problems come from: files of JSON lines, tasks made on the spot, prompts and answers.

Knows which problem the k-th ticket asks, how it is worded, and what the reference answer is. Knows
nothing of models, tokenizers, rewards or the network, and imports none of their packages. Used by
the prompter, the evaluator, the trainer's warm start and `realnet check`.
"""

from realnet.roles.tasks.dataset import EVAL_CAP, Dataset, Problem, check_tasks, demos

__all__ = ["EVAL_CAP", "Dataset", "Problem", "check_tasks", "demos"]
