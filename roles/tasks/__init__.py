"""Where problems come from: files of JSON lines, tasks made on the spot, prompts and answers.

Knows which problem the k-th ticket asks, how it is worded, and what the reference answer is. Knows
nothing of models, rewards or the network, and of tokenizers only what they can do. Imports none of
their packages. Used by the prompter, the evaluator, the trainer's warm start and `realnet check`.
"""

from realnet.roles.tasks.asking import (
    CannotAsk,
    TextCodec,
    check_asking,
    make_ticket,
    templated,
)
from realnet.roles.tasks.dataset import EVAL_CAP, Dataset, Problem, check_tasks, demos
from realnet.roles.tasks.source import is_made

__all__ = [
    "EVAL_CAP",
    "CannotAsk",
    "Dataset",
    "Problem",
    "TextCodec",
    "check_asking",
    "check_tasks",
    "demos",
    "is_made",
    "make_ticket",
    "templated",
]
