"""What is being answered right now: who asked, until when, and the trace it belongs to.

Every handler runs with the call that it answers as its context; asks that it makes inherit the
trace and the remaining time. Knows nothing of actors or links. Set by `serving.py` and
`live/share.py`, read by `calls.py` and by `caller()`, `trace()`.
"""

from __future__ import annotations

import contextvars
import itertools
import secrets
from typing import Protocol


class Context(Protocol):
    """A call or an item that is being handled."""

    sender: str
    trace: int
    span: int
    expires_s: float
    done: bool


current: contextvars.ContextVar[Context | None] = contextvars.ContextVar("current", default=None)
# Numbers for what begins here, that no other process of a run uses, as good as surely.
traces = itertools.count(secrets.randbits(40) << 20)


def caller() -> str:
    """Inside a handler: the full address of the actor whose request or word this is."""
    context = current.get()
    return context.sender if context is not None else ""


def trace() -> int:
    """Inside a handler: the number of all that one first cause leads to; 0 outside."""
    context = current.get()
    return context.trace if context is not None else 0
