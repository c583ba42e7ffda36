"""`new:modz` and `new:maxz`: two numbers, digit by digit: the sum modulo 10, or the larger one.

A prompt of `modz` is `m003847+000925=`; its answer `3762`: each column is added by itself, nothing
is carried, and the answer has as many digits as the larger number. A prompt of `maxz` is
`x003847+000925=`; its answer `3947`. A demonstration thinks column by column from the right
(`<think>7+5=2,4+2=6,8+9=7,3+0=3</think>3762`) or answers directly. Now and then a column slips.

Everything follows from (seed, k). Knows nothing of models, tokens, rewards or files. Called by the
dataset library of this package.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from realnet.roles.tasks.making import SLIP, THINK, answers_directly, direct, held_out, thought

WIDTH = 6  # digits of a padded number
LEVELS = (2, 3, 4, 5, 6)  # significant digits of the larger number

Column = Callable[[int, int], int]


class Pair(NamedTuple):
    """One problem: two numbers of at most `level` digits, of which one has exactly `level`."""

    left: int
    right: int
    level: int

    def digits(self, place: int) -> tuple[int, int]:
        """Return the two digits of a column, 0 being the rightmost."""
        return self.left // 10**place % 10, self.right // 10**place % 10


class ColumnZ:
    """Makes problems of one kind: `letter` opens its prompts, `column` is what is done."""

    def __init__(self, name: str, letter: str, column: Column, wrong: Column) -> None:
        """`wrong` is what a column that slips has instead."""
        self.name, self._letter, self._column, self._wrong = name, letter, column, wrong

    def row(self, seed: int, k: int, *, held_out: bool) -> dict[str, str]:
        """Return the k-th problem of a seed, of the training or of the held-out set.

        Columns: `question`, `answer`, `level`, and `forced`: the opening of a thinking answer.
        """
        problem = self._draw(random.Random(f"{self.name} row {seed} {k}"), held_out)
        return {
            "question": self.prompt(problem),
            "answer": self.think(problem, random.Random(0), 0.0)[1],
            "forced": f"{THINK}{problem.left % 10}",
            "level": str(problem.level),
        }

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return the k-th demonstration (prompt, response without its stop token)."""
        rng = random.Random(f"{self.name} demo {seed} {k}")
        problem = self._draw(rng, False)
        if answers_directly(rng, progress):
            return self.prompt(problem), direct(self.think(problem, rng, 0.0)[1])
        steps, answer = self.think(problem, rng, SLIP)
        return self.prompt(problem), thought(steps, answer)

    def prompt(self, problem: Pair) -> str:
        """Return the question as it is asked."""
        return f"{self._letter}{problem.left:0{WIDTH}d}+{problem.right:0{WIDTH}d}="

    def think(self, problem: Pair, rng: random.Random, slip: float) -> tuple[list[str], str]:
        """Return the steps and the answer; each column is wrong with chance `slip`."""
        steps, answer = [], ""
        for place in range(problem.level):
            a, b = problem.digits(place)
            digit = (self._wrong if rng.random() < slip else self._column)(a, b)
            steps.append(f"{a}+{b}={digit}")
            answer = f"{digit}{answer}"
        return steps, answer

    def _draw(self, rng: random.Random, want_held_out: bool) -> Pair:
        while True:
            level = rng.choice(LEVELS)
            long = rng.randrange(10 ** (level - 1), 10**level)
            short = rng.randrange(10**level)
            left, right = (long, short) if rng.random() < 0.5 else (short, long)
            problem = Pair(left, right, level)
            if held_out(self.prompt(problem)) == want_held_out:
                return problem


MODZ = ColumnZ("modz", "m", lambda a, b: (a + b) % 10, lambda a, b: (a + b + 1) % 10)
MAXZ = ColumnZ("maxz", "x", max, min)
