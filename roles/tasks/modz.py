"""`new:modz`: digit-wise sums modulo 10 of zero-padded numbers. `new:modz_unseen`: of another size.

A prompt is `m003847+000925=`; its answer `3762`: each column is added by itself, nothing is
carried, and the answer has as many digits as the larger number. A demonstration thinks column by
column from the right (`<think>7+5=2,4+2=6,8+9=7,3+0=3</think>3762`) or answers directly. Now and
then a column slips by one.

`modz_unseen` asks the same of numbers of four digits, which `modz` never draws and nobody ever
demonstrates: what a policy can do there it was not trained on.

Everything follows from (seed, k). Knows nothing of models, tokens, rewards or files. Called by the
dataset library of this package.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from realnet.errors import ConfigError
from realnet.roles.tasks.making import SLIP, THINK, answers_directly, direct, held_out, thought

WIDTH = 6  # digits of a padded number
LEVELS = (2, 3, 5, 6)  # significant digits of the larger number
UNSEEN_LEVELS = (4,)


class Columns(NamedTuple):
    """One problem: two numbers of at most `level` digits, of which one has exactly `level`."""

    left: int
    right: int
    level: int

    @property
    def prompt(self) -> str:
        """Return the question as it is asked."""
        return f"m{self.left:0{WIDTH}d}+{self.right:0{WIDTH}d}="

    def digits(self, place: int) -> tuple[int, int]:
        """Return the two digits of a column, 0 being the rightmost."""
        return self.left // 10**place % 10, self.right // 10**place % 10


class ModZ:
    """Makes the problems of some levels. `demonstrated` says whether there are demonstrations."""

    def __init__(self, name: str, levels: tuple[int, ...], *, demonstrated: bool) -> None:
        self.name, self._levels, self._demonstrated = name, levels, demonstrated

    def row(self, seed: int, k: int, *, held_out: bool) -> dict[str, str]:
        """Return the k-th problem of a seed, of the training or of the held-out set.

        Columns: `question`, `answer`, `level`, and `forced`: the opening of a thinking answer.
        """
        problem = self._draw(random.Random(f"{self.name} row {seed} {k}"), held_out)
        return {
            "question": problem.prompt,
            "answer": think(problem, random.Random(0), 0.0)[1],
            "forced": f"{THINK}{problem.left % 10}",
            "level": str(problem.level),
        }

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return the k-th demonstration (prompt, response without its stop token)."""
        if not self._demonstrated:
            raise ConfigError(f"new:{self.name} has no demonstrations: it is for evaluation only")
        rng = random.Random(f"{self.name} demo {seed} {k}")
        problem = self._draw(rng, False)
        if answers_directly(rng, progress):
            return problem.prompt, direct(think(problem, rng, 0.0)[1])
        steps, answer = think(problem, rng, SLIP)
        return problem.prompt, thought(steps, answer)

    def _draw(self, rng: random.Random, want_held_out: bool) -> Columns:
        while True:
            level = rng.choice(self._levels)
            long = rng.randrange(10 ** (level - 1), 10**level)
            short = rng.randrange(10**level)
            left, right = (long, short) if rng.random() < 0.5 else (short, long)
            problem = Columns(left, right, level)
            if held_out(problem.prompt) == want_held_out:
                return problem


def think(problem: Columns, rng: random.Random, slip: float) -> tuple[list[str], str]:
    """Return the steps and the answer; each column is off by one with chance `slip`."""
    steps, answer = [], ""
    for place in range(problem.level):
        a, b = problem.digits(place)
        column = (a + b) % 10
        if rng.random() < slip:
            column = (column + rng.choice((1, 9))) % 10
        steps.append(f"{a}+{b}={column}")
        answer = f"{column}{answer}"
    return steps, answer


TRAINED = ModZ("modz", LEVELS, demonstrated=True)
UNSEEN = ModZ("modz_unseen", UNSEEN_LEVELS, demonstrated=False)
