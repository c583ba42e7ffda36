"""Marks of keys that a run which goes on cannot take anew.

A field says so beside its meaning: `Annotated[int, doc("..."), Fixed("why")]`. What bears no mark
may change when a run is resumed. Knows nothing of plans: `topology/changes.py` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fixed:
    """This key stays as the run was begun with, because `why`.

    `fork`: whether a run forked from this one (`--from`) may have another value. `to`: only these
    new values are refused; empty: every one.
    """

    why: str
    fork: bool = True
    to: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Past:
    """This key decided the beginning of a run: later it may be written, and has no effect."""

    why: str
