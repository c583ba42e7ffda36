"""The six states of a ticket, and which moves between them are legal.

Knows nothing of how many tickets there are. Used by the ledger.
"""

from __future__ import annotations

from enum import StrEnum

from realnet.errors import RealnetError


class TicketState(StrEnum):
    """Where a ticket is. The values are the words of every text and table."""

    WAITING = "waiting"
    LEASED = "leased"
    BUFFERED = "buffered"
    TRAINED = "trained"
    SET_ASIDE = "set_aside"
    DROPPED = "dropped"


_S = TicketState
OPEN = (_S.WAITING, _S.LEASED, _S.BUFFERED)
ENDS = (_S.TRAINED, _S.SET_ASIDE, _S.DROPPED)
ISSUED = "issued"  # where a ticket comes from before its first state
ALLOWED = {
    (_S.WAITING, _S.LEASED),
    (_S.WAITING, _S.BUFFERED),
    (_S.LEASED, _S.BUFFERED),
    (_S.LEASED, _S.WAITING),
    (_S.BUFFERED, _S.WAITING),
    (_S.BUFFERED, _S.LEASED),
    (_S.BUFFERED, _S.TRAINED),
    *((before, end) for before in OPEN for end in (_S.SET_ASIDE, _S.DROPPED)),
}


class IllegalMove(RealnetError):
    """A ticket was to go where it cannot go from its state."""


class LedgerUnbalanced(RealnetError):
    """The states do not add up to what was issued."""
