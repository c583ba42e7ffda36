"""One wheel for all deadlines of a process, and one timer of the loop for the wheel.

A timer for each ask costs more than the ask (measured: 6-8 us against 5). Deadlines fall into
buckets of `GRAIN_S`; putting one in and taking it out are a dictionary write each; a deadline is
told up to a grain late, never early.

Knows nothing of what it ends. Owned by `node.py`; used by `calls.py`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, Protocol

GRAIN_S: Final = 0.02


class Expiring(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """The deadline has passed."""


Bucket = dict[Expiring, None]


class Deadlines:
    """The deadlines of one process, in seconds of its clock."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._buckets: dict[int, Bucket] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0
        self._last_number = -1  # most asks of a moment end in the same one
        self._last: Bucket = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def add(self, item: Expiring, at_s: float) -> Bucket:
        """Tell `item` when `at_s` has passed; take it out of the returned bucket to call it off."""
        number = int(at_s / GRAIN_S) + 1
        bucket = self._last if number == self._last_number else self._bucket(number)
        bucket[item] = None
        return bucket

    def _bucket(self, number: int) -> Bucket:
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._order, number)
            if self._timer is None or number < self._armed:
                self._arm()
        self._last_number, self._last = number, bucket
        return bucket

    def close(self) -> None:
        """Tell nobody any more."""
        self._last_number = -1
        self._buckets.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._armed = self._order[0]
            left_s = max(0.0, self._armed * GRAIN_S - self._now())
            self._timer = asyncio.get_running_loop().call_later(left_s, self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._last_number = -1
        now_s = self._now() + 1e-6  # a timer may be a hair early
        while self._order and self._order[0] * GRAIN_S <= now_s:
            bucket = self._buckets.pop(heapq.heappop(self._order))
            while bucket:
                item = next(iter(bucket))
                del bucket[item]
                try:
                    item.expire()
                except Exception as error:  # of one: the others' time is over as well
                    loop = asyncio.get_running_loop()
                    loop.call_exception_handler(
                        {"message": "a deadline could not be told", "exception": error}
                    )
        while self._order and not self._buckets[self._order[0]]:  # all called off: sleep on
            del self._buckets[heapq.heappop(self._order)]
        self._arm()
