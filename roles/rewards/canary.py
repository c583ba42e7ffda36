"""Known answers for the built-in rewards: each is shown a right and a wrong one before step 1.

A parser of another release, or a worker without what it needs, would otherwise teach for hours that
right answers are wrong. Rewards of the user's own have no answer that is known here.

Knows a pool. Knows nothing of actors. Called by the rewarder at its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from realnet.errors import ConfigError
from realnet.roles.rewards.pool import RewardPool, Unscored


class Known(NamedTuple):
    """A reference answer, and two answers to it: one is worth 1.0, the other 0.0."""

    answer: str
    right: str
    wrong: str


_THOUGHT = "<think>\n3 + 4 is 7.\n</think>\n"
KNOWN = {
    "exact": Known("12", f"{_THOUGHT}12", f"{_THOUGHT}12.0"),
    "numeric": Known("1,234.5", f"{_THOUGHT}It is +1234.50", f"{_THOUGHT}It is 1234.6"),
    "math": Known(
        "\\frac{3}{4}", f"{_THOUGHT}\\boxed{{0.75}}", f"{_THOUGHT}0.75, no: \\boxed{{4/3}}"
    ),
    "format": Known("", f"{_THOUGHT}7", "3 + 4 is 7.\n</think>\n"),
}


async def prove(pool: RewardPool, references: Iterable[str]) -> None:
    """Let a started pool judge what is known. Raises ConfigError, with both numbers."""
    used = [reference for reference in dict.fromkeys(references) if reference in KNOWN]
    await asyncio.gather(*(_prove(pool, reference, KNOWN[reference]) for reference in used))


async def _prove(pool: RewardPool, reference: str, known: Known) -> None:
    right, wrong = await asyncio.gather(
        *(_score(pool, reference, text, known.answer) for text in (known.right, known.wrong))
    )
    if (right, wrong) != (1.0, 0.0):
        raise ConfigError(
            f"the reward {reference!r} does not judge as it should: {known.right!r} to the "
            f"reference {known.answer!r} is worth 1.0 and was given {right}, {known.wrong!r} is "
            f"worth 0.0 and was given {wrong}. The versions of what it uses differ from "
            "constraints.txt, or [roles.rewarder].limit or worker_memory is too small for it"
        )


async def _score(pool: RewardPool, reference: str, text: str, answer: str) -> float | str:
    try:
        return await pool.score(reference, "", text, answer, "stop")
    except Unscored as unscored:
        return f"no score ({unscored})"
