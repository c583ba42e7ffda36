"""Processes that speak to this one, and that nobody has told it of: early, or not of this run.

A process may well speak before the head's word of it is here; that word comes in a moment. What
is still a stranger after `STRANGE_S`, and an incarnation whose successor is here already, is told.

Knows nothing of links, keys, clocks or queues. Called by `node.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

STRANGE_S = 10.0
MAX_STRANGERS = 1000


class Strangers:
    """Who spoke and is not known yet. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}  # infinite once it was told

    def spoke(self, slot: str, known: Iterable[str], now_s: float) -> str:
        """An unknown incarnation speaks: return why what it says is refused, '' if it may be early.

        `known` are the incarnations that live.
        """
        if slot in self._due_s:
            return ""
        name, _, incarnation = slot.partition("~")
        for other in known:
            other_name, _, living = other.partition("~")
            if other_name == name and _number(living) > _number(incarnation):
                return f"refused what {slot} sends: it is {other} that lives now"
        if len(self._due_s) >= MAX_STRANGERS:
            return f"refused what {slot} sends: {MAX_STRANGERS} others are unknown already"
        self._due_s[slot] = now_s + STRANGE_S
        return ""

    def met(self, slot: str) -> None:
        """It is known now, or dead."""
        self._due_s.pop(slot, None)

    @property
    def due_s(self) -> float | None:
        """When `overdue` has something to tell; None while there is nothing."""
        due_s = min(self._due_s.values(), default=math.inf)
        return due_s if due_s < math.inf else None

    def overdue(self, now_s: float) -> list[str]:
        """Return what is to be told of those that are strange for too long, once for each."""
        found = [slot for slot, due_s in self._due_s.items() if due_s <= now_s]
        self._due_s.update(dict.fromkeys(found, math.inf))
        return [
            f"{slot} has spoken to this process for {STRANGE_S:g} s, and nobody told it of such a "
            "life: what it sends is not used"
            for slot in found
        ]


def _number(incarnation: str) -> int:
    return int(incarnation) if incarnation.isdecimal() else 0
