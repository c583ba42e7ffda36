"""Who takes part in a collective update, decided without IO.

Members are those who took part the last time, less those who died or were missing. An update waits
for all of them to be ready, up to a time, then goes with those who are, and names the others. Every
change of membership is a new epoch, for which the group is built again. Who comes for the first
time, or again, has fetched its version by stream, and is expected from the next version on.

    expect(version) -> ready(name) ... -> Go(epoch, ranks, missing) -> ended(name, good) ... -> tell

Knows nothing of groups, sockets or clocks: times are told. Called by `updates.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from realnet.roles.messages import Version


class Go(NamedTuple):
    """The update begins: `ranks[i]` has rank i + 1, the sender has rank 0."""

    version: Version
    epoch: int
    ranks: tuple[str, ...]
    missing: tuple[str, ...]


class Outcome(NamedTuple):
    """How an update ended: whose copy is good, who failed, of whom nothing was heard."""

    version: Version
    epoch: int
    good: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    silent: tuple[str, ...]


class Membership:
    """The members of one sender's group. `patience_s` is how long the slowest is waited for."""

    def __init__(self, patience_s: float) -> None:
        self.epoch = 0
        self.members: set[str] = set()
        self._patience_s = patience_s
        self._group: tuple[str, ...] = ()  # of the present epoch
        self._version: Version | None = None  # that can be joined now
        self._ready: list[str] = []
        self._until_s = 0.0
        self._going: Go | None = None
        self._ended: dict[str, str] = {}

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """The members that are not ready for the version on offer."""
        if self._version is None:
            return ()
        return tuple(sorted(self.members.difference(self._ready)))

    @property
    def due_s(self) -> float | None:
        """When the barrier opens at the latest; None while there is none."""
        return self._until_s if self._version is not None and self._ready else None

    def offer(self, version: Version) -> tuple[str, ...]:
        """A version can be joined; return who waited for the one before, in vain."""
        left, self._ready = tuple(self._ready), []
        self._version = version
        return left

    def ready(self, name: str, version: Version, now_s: float) -> str:
        """Somebody is ready; return why it is not to wait, or nothing."""
        if name not in self.members:
            self.members.add(name)
            self._leave(name)
            return "it is new here: expected from the next version on"
        if self._version != version:
            return f"{version} is not on offer any more"
        if not self._ready:
            self._until_s = now_s + self._patience_s
        if name not in self._ready:
            self._ready.append(name)
        return ""

    def gone(self, name: str) -> None:
        """Somebody died, or does not wait any more."""
        self.members.discard(name)
        self._leave(name)
        if name in self._ready:
            self._ready.remove(name)

    def _leave(self, name: str) -> None:
        """Whoever has this name from now on is not in the group that stands."""
        if name in self._group:
            self._group = ()

    def go(self, now_s: float) -> Go | None:
        """Begin, if all members are ready or it is time; the missing are members no more."""
        if self._version is None or not self._ready or self._going is not None:
            return None
        missing = self.waiting_for
        if missing and now_s < self._until_s:
            return None
        self.members.difference_update(missing)
        # The same members keep their ranks and their group.
        ranks = self._group if set(self._group) == set(self._ready) else tuple(sorted(self._ready))
        if ranks != self._group or not self.epoch:
            self.epoch += 1
            self._group = ranks
        self._going = Go(self._version, self.epoch, ranks, missing)
        self._version, self._ready, self._ended = None, [], {}
        return self._going

    def ended(self, name: str, epoch: int, error: str) -> bool:
        """A member says how it ended; tell whether all have."""
        if self._going is not None and epoch == self._going.epoch and name in self._going.ranks:
            self._ended[name] = error
        return self._going is not None and len(self._ended) == len(self._going.ranks)

    def close(self, error: str = "") -> Outcome | None:
        """The update is over, for the sender with this error; return what became of it.

        After any failure the group is not used again; who was not heard of is no member any more.
        """
        going, self._going = self._going, None
        if going is None:
            return None
        failed = tuple((n, e) for n, e in sorted(self._ended.items()) if e)
        silent = tuple(n for n in going.ranks if n not in self._ended)
        if error or failed or silent:
            self._group = ()
        self.members.difference_update(silent)
        good = tuple(n for n, e in sorted(self._ended.items()) if not e)
        return Outcome(going.version, going.epoch, good, failed, silent)

    @property
    def built(self) -> Sequence[str]:
        """The ranks of the group that stands; empty if the next update builds one."""
        return self._group
