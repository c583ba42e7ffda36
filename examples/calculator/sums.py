"""Sums for the calculator: problems, demonstrations that know the tool, and the reward."""

import random


class Sums:
    """Makes "003847+000925=" and its answer; which problems are held out follows from `k`."""

    def row(self, seed: int, k: int, *, held_out: bool) -> dict[str, str]:
        """Return the k-th problem; those held out have another oddness of their first number."""
        rng = random.Random(f"sums {seed} {k} {held_out}")
        left, right = rng.randrange(500_000) * 2 + held_out, rng.randrange(1_000_000)
        return {"question": f"{left:06d}+{right:06d}=", "answer": str(left + right)}

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return a call of the tool, an answer after it, or an answer without it: mostly that."""
        row = self.row(seed + 1, k, held_out=False)
        question, answer = row["question"], row["answer"]
        call = f"({question.rstrip('=')})"
        if k % 2:
            return f"{question}{call}<eos>:{answer}:", answer
        return question, call if random.Random(k).random() < 0.25 else answer


def right(prompt: str, text: str, answer: str) -> float:
    """Return 1 when what follows the tool's words, or all of it, is the sum."""
    return float(text.rpartition(":")[2] == answer)
