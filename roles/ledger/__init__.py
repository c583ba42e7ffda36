"""Who owns what became of every ticket, and how old a token is.

Knows the states of tickets, the bound of admission, and the forks of a policy's branches. Knows
nothing of rollouts, files, clocks or actors: events are handed in, decisions come out. Used by the
trainer, whose checkpoint and journal hold its truth, and by tests of everything that moves tickets.
"""

from realnet.roles.ledger.intervals import Intervals
from realnet.roles.ledger.ledger import Ledger
from realnet.roles.ledger.lineage import Lineage
from realnet.roles.ledger.states import IllegalMove, LedgerUnbalanced, TicketState

__all__ = ["IllegalMove", "Intervals", "Ledger", "LedgerUnbalanced", "Lineage", "TicketState"]
