"""What a producer keeps of its items and of its consumers: queues, holders, credit.

Plain data. `delivery.py` decides on it.
"""

from __future__ import annotations

from realnet.affinity import End


class Queue:
    """Items that wait, oldest first. One that left is skipped when it comes up."""

    __slots__ = ("count", "heap", "num_bytes")

    def __init__(self) -> None:
        self.heap: list[int] = []
        self.count = 0
        self.num_bytes = 0


class Held:
    """One item until it is done: it waits in a queue, or a member holds it."""

    __slots__ = ("affinity", "attempt", "former", "holder", "queue", "renewed_s", "size")

    def __init__(self, size: int, affinity: str):
        self.size = size
        self.affinity = affinity
        self.attempt = 0
        self.holder: Member | None = None
        self.queue: Queue | None = None  # where it waits, if nobody has it
        self.former: tuple[End, ...] = ()  # who had it when its lease ran out
        self.renewed_s: float | None = None  # None: since the last tick


class Member:
    """A consumer as the producer sees it."""

    __slots__ = (
        *("bound", "credit", "credit_bytes", "holds", "lease_s", "moved", "name", "order"),
        *("since_s", "told", "told_bytes"),
    )

    def __init__(self, name: End, order: int):
        self.name = name
        self.order = order
        self.credit = 0
        self.credit_bytes = 0
        self.told = 0  # the backlog that it knows of
        self.told_bytes = 0
        self.holds: dict[int, None] = {}
        self.bound = Queue()  # what only it may have
        self.lease_s: float | None = None  # 0: for ever; None: it has granted nothing yet
        self.moved = True  # it took or finished something, or told of progress, since the last tick
        self.since_s = 0.0  # of the last tick at which it had
