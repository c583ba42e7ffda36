"""`new:addz`: addition of zero-padded numbers, which a model of 0.1 M parameters can think about.

A prompt is `003847+000925=`; its answer `4772`. A demonstration either thinks, one column after the
other from the right (`<think>7+5=12,4+2=07,8+9=17,3+0=04</think>4772`; a column's sum includes the
carry and always has two digits), or answers directly (`<think></think>4772`). Demonstrations slip:
now and then a carry is forgotten or invented, and later columns follow from the slip. So a model
warm-started on them can think, mostly does not, and errs: what is left for reinforcement.

Everything follows from (seed, k). Held-out problems are those whose prompt's md5 says so: no
problem is in both sets, whatever the seeds.

Knows nothing of models, tokens, rewards or files. Called by the dataset library of this package.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from realnet.roles.tasks.making import SLIP, THINK, answers_directly, direct, held_out, thought

WIDTH = 6  # digits of a padded number
LEVELS = (2, 3, 4, 5, 6)  # significant digits of the larger number


class Sum(NamedTuple):
    """One problem: two numbers of at most `level` digits, of which one has exactly `level`."""

    left: int
    right: int
    level: int

    @property
    def prompt(self) -> str:
        """Return the question as it is asked."""
        return f"{self.left:0{WIDTH}d}+{self.right:0{WIDTH}d}="


def row(seed: int, k: int, *, held_out: bool) -> dict[str, str]:
    """Return the k-th problem of a seed, of the training or of the held-out set.

    Columns: `question`, `answer`, `level`, and `forced`: the opening of a thinking answer. A prompt
    template "{question}{forced}" measures a model made to think, against one that chooses to.
    """
    problem = _draw(random.Random(f"addz row {seed} {k}"), held_out)
    return {
        "question": problem.prompt,
        "answer": str(problem.left + problem.right),
        "forced": f"{THINK}{problem.left % 10}",
        "level": str(problem.level),
    }


def demo(seed: int, k: int, progress: float) -> tuple[str, str]:
    """Return the k-th demonstration of a seed: a prompt and a response without its stop token.

    `progress`, in 0..1, is how far the warm start has come: thinking is learned first, and the
    habit of not using it last.
    """
    rng = random.Random(f"addz demo {seed} {k}")
    problem = _draw(rng, False)
    if answers_directly(rng, progress):
        return problem.prompt, direct(str(problem.left + problem.right))
    return problem.prompt, think(problem, rng, SLIP)


def think(problem: Sum, rng: random.Random, slip: float) -> str:
    """Add column by column and return the response; each column slips with chance `slip`."""
    columns: list[str] = []
    total = carry = 0
    for place in range(problem.level):
        a = problem.left // 10**place % 10
        b = problem.right // 10**place % 10
        if rng.random() < slip:
            carry = 1 - carry
        column = a + b + carry
        columns.append(f"{a}+{b}={column:02d}")
        total += column % 10 * 10**place
        carry = column // 10
    total += carry * 10**problem.level
    return thought(columns, str(total))


def _draw(rng: random.Random, want_held_out: bool) -> Sum:
    """Draw problems until one is of the wanted set."""
    while True:
        level = rng.choice(LEVELS)
        long = rng.randrange(10 ** (level - 1), 10**level)
        short = rng.randrange(10**level)
        left, right = (long, short) if rng.random() < 0.5 else (short, long)
        problem = Sum(left, right, level)
        if held_out(problem.prompt) == want_held_out:
            return problem
