"""Which member of a pool gets related work: the same one, for as long as it lives.

The first item of a key goes where a hash of key and member says, so that several senders, and a
sender that was restarted, agree without asking each other. From then on it stays there: a member
that joins takes over no key that is in use. Keys that were not used for long are forgotten; their
hash is asked again.

Knows nothing of items, credit or links. Called by `delivery.py`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection

End = tuple[str, str]
"""One end of a wire: the incarnation of an actor ("worker/0~2"), and the port of it."""

REMEMBERED = 65_536


class Homes:
    """Where each key goes."""

    def __init__(self, remembered: int = REMEMBERED):
        self._remembered = remembered
        self._home: OrderedDict[str, End] = OrderedDict()

    def __len__(self) -> int:
        return len(self._home)

    def of(self, key: str, members: Collection[End]) -> End:
        """Return the member for this key, one of `members`, which must not be empty."""
        home = self._home.get(key)
        if home is None or home not in members:
            home = self._home[key] = max(members, key=lambda member: _weight(key, member))
            if len(self._home) > self._remembered:
                self._home.popitem(last=False)
        else:
            self._home.move_to_end(key)
        return home


def _weight(key: str, member: End) -> tuple[bytes, End]:
    """Return how much a key wants a member: the same for all lives of the member's slot."""
    text = f"{key}\0{member[0].partition('~')[0]}\0{member[1]}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest(), member
