"""`new:sortz`: sorting digits by repeated selection. `new:sortz_unseen`: of another length.

A prompt is `s4928=`; its answer `2489`. A demonstration takes the smallest digit out, writes what
is left, and so on (`<think>2:498,4:98,8:9,9:</think>2489`), or answers directly. Now and then it
takes the second smallest instead.

`sortz_unseen` asks for five digits, which `sortz` never draws and nobody ever demonstrates: what a
policy can do there it was not trained on.

Everything follows from (seed, k). Knows nothing of models, tokens, rewards or files. Called by the
dataset library of this package.
"""

from __future__ import annotations

import random

from realnet.errors import ConfigError
from realnet.roles.tasks.making import SLIP, THINK, answers_directly, direct, held_out, thought

LENGTHS = (3, 4, 6)
UNSEEN_LENGTHS = (5,)


class SortZ:
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
            "answer": "".join(sorted(digits)),
            "forced": f"{THINK}{min(digits)}",
            "level": str(len(digits)),
        }

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return the k-th demonstration (prompt, response without its stop token)."""
        if not self._demonstrated:
            raise ConfigError(f"new:{self.name} has no demonstrations: it is for evaluation only")
        rng = random.Random(f"{self.name} demo {seed} {k}")
        digits = self._draw(rng, False)
        if answers_directly(rng, progress):
            return _prompt(digits), direct("".join(sorted(digits)))
        steps, answer = think(digits, rng, SLIP)
        return _prompt(digits), thought(steps, answer)

    def _draw(self, rng: random.Random, want_held_out: bool) -> str:
        while True:
            length = rng.choice(self._lengths)
            digits = f"{rng.randrange(10**length):0{length}d}"
            if held_out(_prompt(digits)) == want_held_out:
                return digits


def think(digits: str, rng: random.Random, slip: float) -> tuple[list[str], str]:
    """Return the steps and the answer; each step takes the wrong digit with chance `slip`."""
    left, steps, answer = digits, [], ""
    while left:
        ordered = sorted(left)
        taken = ordered[1] if len(left) > 1 and rng.random() < slip else ordered[0]
        left = left.replace(taken, "", 1)
        steps.append(f"{taken}:{left}")
        answer += taken
    return steps, answer


def _prompt(digits: str) -> str:
    return f"s{digits}="


TRAINED = SortZ("sortz", LENGTHS, demonstrated=True)
UNSEEN = SortZ("sortz_unseen", UNSEEN_LENGTHS, demonstrated=False)
