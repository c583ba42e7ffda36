"""`new:chainz`: running sums of digits, modulo 10. `new:chainz_unseen`: of another length.

A prompt is `c004928=`; its answer `3908`: from the right, each digit is added to the sum so far and
what is carried is dropped (8, 8+2=0, 0+9=9, 9+4=3), so the first digit is the last sum. A
demonstration thinks sum by sum (`<think>0+8=8,8+2=0,0+9=9,9+4=3</think>3908`), each step from the
one before it, or answers directly. Now and then a sum slips, and what follows goes on from it.

`chainz_unseen` asks for five digits, which `chainz` never draws and nobody ever demonstrates: what
a policy can do there it was not trained on.

Everything follows from (seed, k). Knows nothing of models, tokens, rewards or files. Called by the
dataset library of this package.
"""

from __future__ import annotations

import random

from realnet.errors import ConfigError
from realnet.roles.tasks.making import SLIP, THINK, answers_directly, direct, held_out, thought

WIDTH = 6  # digits of a padded number
LENGTHS = (2, 3, 4, 6)
UNSEEN_LENGTHS = (5,)


class ChainZ:
    """Makes the problems of some lengths. `demonstrated` says whether there are demonstrations."""

    def __init__(self, name: str, lengths: tuple[int, ...], *, demonstrated: bool) -> None:
        self.name, self._lengths, self._demonstrated = name, lengths, demonstrated

    def row(self, seed: int, k: int, *, held_out: bool) -> dict[str, str]:
        """Return the k-th problem of a seed, of the training or of the held-out set.

        Columns: `question`, `answer`, `level`, and `forced`: the opening of a thinking answer.
        """
        digits = self._draw(random.Random(f"{self.name} row {seed} {k}"), held_out)
        return {
            "question": _prompt(digits),
            "answer": think(digits, random.Random(0), 0.0)[1],
            "forced": f"{THINK}0",
            "level": str(len(digits)),
        }

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return the k-th demonstration (prompt, response without its stop token)."""
        if not self._demonstrated:
            raise ConfigError(f"new:{self.name} has no demonstrations: it is for evaluation only")
        rng = random.Random(f"{self.name} demo {seed} {k}")
        digits = self._draw(rng, False)
        if answers_directly(rng, progress):
            return _prompt(digits), direct(think(digits, rng, 0.0)[1])
        steps, answer = think(digits, rng, SLIP)
        return _prompt(digits), thought(steps, answer)

    def _draw(self, rng: random.Random, want_held_out: bool) -> str:
        while True:
            length = rng.choice(self._lengths)
            digits = str(rng.randrange(10 ** (length - 1), 10**length))
            if held_out(_prompt(digits)) == want_held_out:
                return digits


def think(digits: str, rng: random.Random, slip: float) -> tuple[list[str], str]:
    """Return the steps and the answer; each sum is one too large with chance `slip`."""
    steps, answer, total = [], "", 0
    for digit in map(int, reversed(digits)):
        slipped = rng.random() < slip
        found = (total + digit + slipped) % 10
        steps.append(f"{total}+{digit}={found}")
        answer, total = f"{found}{answer}", found
    return steps, answer


def _prompt(digits: str) -> str:
    return f"c{digits:0>{WIDTH}}="


TRAINED = ChainZ("chainz", LENGTHS, demonstrated=True)
UNSEEN = ChainZ("chainz_unseen", UNSEEN_LENGTHS, demonstrated=False)
