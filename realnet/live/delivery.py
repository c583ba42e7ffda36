"""One item in custody, as its handler sees it.

Knows nothing of wires. Made by `inlet.py`; an outlet's `caused_by=` hangs what is sent on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from realnet.message import Message

M = TypeVar("M", bound=Message)


class Delivery(Generic[M]):
    """One item in custody: a record, and the duty to finish it.

    It is finished when its handler has returned and everything sent with `caused_by=` it is
    finished too; or at once by `done` or `set_aside`. `attempt` counts deliveries, from 1.
    """

    __slots__ = (
        *("_aside", "_finish", "_finished", "_handling", "_moved", "_open"),
        *("attempt", "body", "key"),
    )

    def __init__(self, body: M, key: str, attempt: int, finish: Callable[[str | None], None]):
        self.body = body
        self.key = key
        self.attempt = attempt
        self._finish = finish
        self._open = 1  # the handler itself
        self._handling = True
        self._moved = True
        self._aside: str | None = None
        self._finished = False

    def done(self) -> None:
        """Finish this item now: what it stands for is safe. Its place in the window is free."""
        self._end(None)

    def set_aside(self, reason: str) -> None:
        """End this item now, without result; the reason goes up the chain to its first sender."""
        self._end(reason)

    def progress(self) -> None:
        """Say that work on this item goes on, so that its lease is renewed."""
        self._moved = True

    def caused(self) -> None:
        """One more thing hangs on this item."""
        self._open += 1
        self._moved = True

    def settled(self, aside: str | None = None) -> None:
        """One thing that hung on this item is finished."""
        self._open -= 1
        self._moved = True
        if aside is not None and self._aside is None:
            self._aside = aside
        if self._open == 0:
            self._end(self._aside)

    def handled(self) -> None:
        """The handler has returned."""
        self._handling = False
        self.settled()

    def take_idle(self) -> bool:
        """Tell whether nothing moved since this was asked last.

        An item whose results are on their way is never idle: whoever has those answers for them.
        """
        moved, self._moved = self._moved, False
        return not moved and self._handling and self._open == 1

    def _end(self, aside: str | None) -> None:
        if not self._finished:
            self._finished = True
            self._finish(aside)
