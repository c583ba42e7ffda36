"""What is large gives way: who copies it asks here whether something small is under way.

Copying a megabyte keeps the loop, and on a small machine a whole processor, for a tenth of a
millisecond: an ask that meets one at each of its four stations takes three times as long. So while
there are asks, large messages are copied a piece a turn of the loop, and after each piece the
system is asked to let other threads run: ZeroMQ's own, which carry what is small. When there are
none, nothing is cut up and nobody waits.

Knows nothing of messages. One for each transport, used by `zmq.py` and `inbox.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
RESPITE_S = 0.002  # after the last small one; the loop's clock has steps of a millisecond


class Pace:
    """Whether something small came or went of late. Whoever carries it adds it to `num_small`."""

    def __init__(self) -> None:
        self.num_small = 0
        self._known = 0
        self._known_s = -1.0

    def hurry(self) -> bool:
        """Tell whether what is large may take as long as it does."""
        now_s = asyncio.get_running_loop().time()
        if self._known != self.num_small:
            self._known, self._known_s = self.num_small, now_s
        return now_s - self._known_s > RESPITE_S

    def step(
        self, work: Generator[None, None, T], *, all_of_it: bool = False
    ) -> tuple[bool, T | None]:
        """Do a piece of a work, or all of it; return whether it is done, and what came of it."""
        try:
            while True:
                next(work)
                if not all_of_it and not self.hurry():
                    give_way()
                    return False, None
        except StopIteration as end:
            return True, end.value


def give_way() -> None:
    """Let other threads run first, of this process and of others."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
