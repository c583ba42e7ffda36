"""Branches of a policy: where each began, and how old a token is across them.

Every resume of the trainer opens a new branch at the checkpoint that it loaded, so that no number
is used twice. What an abandoned branch wrote after the fork was written by weights that no longer
exist; its tokens count as old as the fork.

Knows nothing of weights or files. Called by the trainer, and through it by the learner.
"""

from __future__ import annotations

import msgspec

from realnet.errors import CheckpointError, ensure
from realnet.roles.messages import Version


class Lineage:
    """The forks of one policy. `current` is the branch that the trainer writes now."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.current = 0
        self._forks: dict[int, tuple[int, int]] = {}  # branch -> (its parent, number at the fork)

    def resume(self, at: Version) -> int:
        """Open a branch that forks at this version; return its number, never used before."""
        branch = max([at.branch, *self._forks, 0]) + 1
        self.record(branch, at.branch, at.number)
        return branch

    def record(self, branch: int, parent: int, number: int) -> None:
        """Enter a fork, as read back from a journal. Entering the same one again does nothing."""
        known = self._forks.get(branch)
        if known is not None and known != (parent, number):
            raise CheckpointError(
                f"branch {branch} of {self.policy} forks at v{known[0]}.{known[1]} and also at "
                f"v{parent}.{number}: journal and checkpoint are of different runs"
            )
        ensure(branch > parent >= 0 and number >= 0, f"branch {branch} forks from {parent}")
        self._forks[branch] = (parent, number)
        self.current = max(self.current, branch)

    def age(self, version: Version, current: Version) -> int:
        """Return how many versions lie between the state that wrote a token and `current`.

        A token of an abandoned branch counts from the state where that branch and the current one
        parted.
        """
        limits = self._path(current)
        branch, number = version.branch, version.number
        while branch not in limits:
            ensure(branch in self._forks, f"{version} is of a branch that {self.policy} never had")
            branch, fork = self._forks[branch]
            number = min(number, fork)
        return max(0, current.number - min(number, limits[branch]))

    def abandoned(self, version: Version, current: Version) -> bool:
        """Tell whether this version is no ancestor of `current`: a resume went around it."""
        return version.number > self._path(current).get(version.branch, -1)

    def ancestor(self, current: Version, number: int) -> Version:
        """Return the version of this number that the weights of `current` went through."""
        branch = current.branch
        while branch in self._forks and number < self._forks[branch][1]:
            branch = self._forks[branch][0]
        return Version(current.policy, branch, number)

    def _path(self, current: Version) -> dict[int, int]:
        """Return, for the branch of `current` and its ancestors, the last number that is shared."""
        path = {current.branch: current.number}
        branch, number = current.branch, current.number
        while branch in self._forks:
            branch, fork = self._forks[branch]
            number = min(number, fork)
            path[branch] = number
        return path

    def snapshot(self) -> bytes:
        """Return everything as bytes for `restore`."""
        forks = [(branch, *fork) for branch, fork in sorted(self._forks.items())]
        return msgspec.msgpack.encode((self.policy, forks))

    @classmethod
    def restore(cls, data: bytes) -> Lineage:
        """Return the lineage of a snapshot. Raises CheckpointError when it does not read."""
        try:
            policy, forks = msgspec.msgpack.decode(
                data, type=tuple[str, list[tuple[int, int, int]]]
            )
        except msgspec.DecodeError as error:
            raise CheckpointError(f"the snapshot of a lineage does not read: {error}") from None
        made = cls(policy)
        for branch, parent, number in forks:
            made.record(branch, parent, number)
        return made
