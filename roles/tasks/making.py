"""What tasks made on the spot have in common: two sets that never meet, two ways to answer.

A demonstration either thinks aloud and then answers, or answers at once; the habit of answering at
once comes late in a warm start, so that a model which can think mostly does not.

Knows nothing of any one task. Called by the modules that make problems.
"""

from __future__ import annotations

import hashlib
import random

SLIP = 0.12  # chance that one step of a demonstration goes wrong
DIRECT = 0.65  # share of direct answers in the late stage
LATE = 0.7  # the late stage of the warm start begins here: before it, all demonstrations think
HELD_OUT = 16  # one prompt in so many is held out

THINK, ANSWER = "<think>", "</think>"


def held_out(prompt: str) -> bool:
    """Tell whether this prompt is kept for evaluation, whatever the seeds."""
    return hashlib.md5(prompt.encode(), usedforsecurity=False).digest()[0] % HELD_OUT == 0


def thought(steps: list[str], answer: str) -> str:
    """Return a response that shows its steps."""
    return f"{THINK}{','.join(steps)}{ANSWER}{answer}"


def direct(answer: str) -> str:
    """Return a response without thinking."""
    return f"{THINK}{ANSWER}{answer}"


def answers_directly(rng: random.Random, progress: float) -> bool:
    """Tell whether this demonstration answers at once. Draws once, whatever the progress."""
    return rng.random() < DIRECT and progress >= LATE
