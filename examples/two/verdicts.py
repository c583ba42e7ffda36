"""What the judge learns from before reward: how a verdict looks, and a poor guess at which."""

import random


class Verdicts:
    """Demonstrations of a task whose tickets are derived: it has no problems of its own."""

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return somebody's answer to a sum, and a verdict: one with a call is often right."""
        rng = random.Random(f"verdicts {seed} {k}")
        left, right = rng.randrange(1_000_000), rng.randrange(1_000_000)
        question, said = f"{left:06d}+{right:06d}=", str(rng.randrange(2_000_000))
        call = f"({question.rstrip('=')}):{said}:" if k % 2 else ""
        likely, other = "yn" if call else "ny"
        return f"{question}{call}{said}?", likely if rng.random() < 0.65 else other
