"""Which tickets are to go out again, and who was given those that are out: decided without IO.

Several askers may issue tickets of one policy; in a new life each gets back what it had. After a
resume nobody has any: who asks first gets as many as it still wants, and the rest is for others.

Knows numbers and names; knows nothing of the ledger, or of what is durable. Called by the store.
"""

from __future__ import annotations

from collections.abc import Iterable


class Handing:
    """The tickets of one policy that are out, or to go out again."""

    def __init__(self) -> None:
        self._again: set[int] = set()  # open tickets that nobody has
        self._holders: dict[int, str] = {}  # ticket that is out -> who was given it

    @property
    def again(self) -> list[int]:
        """The tickets that are to go out again, in order."""
        return sorted(self._again)

    def begin(self, tickets: Iterable[int]) -> None:
        """These are to go out again, and nobody has anything: whoever had may be no more."""
        self._again = set(tickets)
        self._holders.clear()

    def give(self, tickets: Iterable[int], asker: str) -> None:
        """Somebody is given these."""
        given = list(tickets)
        self._again.difference_update(given)
        self._holders.update(dict.fromkeys(given, asker))

    def give_new(self, tickets: Iterable[int], asker: str) -> None:
        """Somebody is given these for the first time."""
        self._holders.update(dict.fromkeys(tickets, asker))

    def take_back(self, tickets: Iterable[int]) -> None:
        """These go out again."""
        self._again.update(tickets)

    def forget(self, ticket: int) -> None:
        """A ticket is out no more."""
        self._again.discard(ticket)
        self._holders.pop(ticket, None)

    def came_back(self, out: Iterable[int], asker: str, want: int) -> list[int]:
        """An asker begins a new life; return what is to go out again of what is `out`.

        That is what it had, and of what nobody has so much that it has what it wants; the rest of
        what nobody has follows, since it holds room. One that wants nothing gives back what it had.
        """
        known = list(out)
        mine = [t for t in known if self._holders.get(t) == asker]
        if not want:
            for ticket in mine:
                del self._holders[ticket]
            found = mine
        else:
            nobodys = [t for t in known if t not in self._holders or t in self._again]
            spare = [t for t in nobodys if self._holders.get(t) != asker]
            found = sorted(mine + spare[: max(0, want - len(mine))])
        self._again.update(found, (t for t in known if t not in self._holders))
        return found
