"""Which demonstrations a warm start learns from.

Knows tasks, not models. Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from realnet.errors import ConfigError
from realnet.roles.tables import Task
from realnet.roles.tasks import demos, is_made


def demonstrations(
    tasks: Mapping[str, Task], base: Path
) -> Callable[[int, float], tuple[str, str]]:
    """Return the function (k, progress) -> (prompt, response) over the made tasks, in turns.

    `base` is the topology's folder: somebody's own code that makes a task lies beside it.

    Raises ConfigError when no task that is trained on can give demonstrations, or when one that is
    there for nothing else cannot.
    """
    made = [
        (name, task)
        for name, task in tasks.items()
        if task.use == "demo" or (task.use in ("train", "derived") and is_made(task.data))
    ]
    if not made:
        raise ConfigError(
            "[roles.trainer].warm_start needs demonstrations, which only made tasks have: add one "
            'with data = "new:addz" and use = "train", or start from a trained model'
        )
    for name, task in made:
        demos(task, 0, 0.0, f"[tasks.{name}]", base)

    def demo(k: int, progress: float) -> tuple[str, str]:
        name, task = made[k % len(made)]
        return demos(task, k // len(made), progress, f"[tasks.{name}]", base)

    return demo
