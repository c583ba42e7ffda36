"""The steps that a run took after a checkpoint, as its journal tells them.

    checkpoint -> fork, batch and redo records -> for each step: branch, batch
               -> samples and closings         -> the groups of each batch, in the order of steps

A step that a death undid was taken again, on another branch, with the batch that the journal names
last; so the last word on each step is what the weights of today went through. A journal is trimmed
below the checkpoints that are kept, unless `[run].save.journal = "all"`.

Reads files, changes none. Called by `realnet replay`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from realnet.errors import CheckpointError
from realnet.roles.checkpoints.checkpoint import Checkpoints, Found
from realnet.roles.checkpoints.meta import read_meta
from realnet.roles.journal import Journal
from realnet.roles.ledger import Lineage
from realnet.roles.messages import Group, GroupClosed, Scored, Version
from realnet.roles.trainer import records
from realnet.roles.trainer.assembly import Assembly
from realnet.roles.trainer.records import Batch, Forked, Redo

_DECISIONS = (Batch.__name__, Forked.__name__, Redo.__name__)
_ARRIVALS = (Scored.__name__, GroupClosed.__name__)


class Taken(NamedTuple):
    """One step: the version that it started from, and what it was trained on, in order."""

    step: int
    version: Version
    groups: list[Group]


def first_replayable(folder: Path) -> Found:
    """Return the oldest checkpoint of a policy after which no rollout is missing.

    Raises CheckpointError when there is none, saying what may be done.
    """
    journal = Journal(folder / "journal")
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    try:
        for step, path in checkpoints.all():
            found = Found(step, path)
            if 0 < journal.first <= read_meta(found).journal_from:
                return checkpoints.at(step)
    finally:
        journal.close()
    raise CheckpointError(
        f"{folder}: there is no checkpoint whose journal is still there, so nothing can be "
        'replayed. [run].save.journal = "all" keeps the rollouts of a whole run'
    )


class Tape:
    """The steps after one checkpoint. `last` is the step that the run has taken by now."""

    def __init__(self, folder: Path, begin: Found, policy: str, last: int) -> None:
        self.begin = begin
        self.policy = policy
        self._journal = Journal(folder / "journal")
        self._from = read_meta(begin).journal_from
        self.lineage = Lineage.restore(begin.read("lineage.msgpack"))
        self._plans: dict[int, tuple[int, ...]] = {}
        self._redone: dict[int, int] = {}  # ticket -> the record after which its answers count
        self.last = last
        self._read_decisions()

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def steps(self, most: int = 0) -> Iterator[Taken]:
        """Yield the steps after the checkpoint in order, at most so many (0: all).

        Raises CheckpointError where the journal lacks what a step was trained on.
        """
        end = min(self.last, self.begin.step + most) if most else self.last
        step = self.begin.step + 1
        wanted = {t for s in range(step, end + 1) for t in self._plan(s)}
        assembly = Assembly(self.policy, wanted.__contains__)
        arrivals = self._arrivals()
        while step <= end:
            plan = self._plan(step)
            if any(assembly.whole(ticket) is None for ticket in plan):
                arrived = next(arrivals, None)
                if arrived is None:
                    raise CheckpointError(
                        f"{self._journal.folder} does not hold all groups of step {step}: it was "
                        "trimmed, or records were lost"
                    )
                if isinstance(arrived, Scored):
                    assembly.add(arrived)
                else:
                    assembly.close(arrived)
                continue
            groups = [group for t in plan if (group := assembly.whole(t)) is not None]
            for ticket in plan:
                wanted.discard(ticket)
                assembly.forget(ticket)
            yield Taken(step, self.version(step - 1), groups)
            step += 1

    def version(self, number: int) -> Version:
        """Return the version of this number on the way to the present weights."""
        return self.lineage.ancestor(Version(self.policy, self.lineage.current, self.last), number)

    def age(self, version: Version, current: Version) -> int:
        """Return how many versions old a token is for a step from `current`."""
        return self.lineage.age(version, current)

    # ------------------------------------------------------------ reading

    def _plan(self, step: int) -> tuple[int, ...]:
        if step not in self._plans:
            raise CheckpointError(
                f"{self._journal.folder} does not tell the batch of step {step}: records were lost"
            )
        return self._plans[step]

    def _read_decisions(self) -> None:
        for index, entry in enumerate(self._journal.replay(self._from)):
            if entry.kind not in _DECISIONS:
                continue
            match records.unpack(entry.kind, entry.body, self._where(entry.segment)):
                case Batch(step, tickets):
                    self._plans[step] = tickets
                case Redo(tickets):
                    self._redone.update(dict.fromkeys(tickets, index))
                case Forked(branch, parent, number):
                    self.lineage.record(branch, parent, number)

    def _arrivals(self) -> Iterator[Scored | GroupClosed]:
        for index, entry in enumerate(self._journal.replay(self._from)):
            if entry.kind not in _ARRIVALS:
                continue
            record = records.unpack(entry.kind, entry.body, self._where(entry.segment))
            if isinstance(record, Scored):
                ticket = record.rollout.key.ticket.ticket
            else:
                assert isinstance(record, GroupClosed)
                ticket = record.key.ticket
            if index > self._redone.get(ticket, -1):
                yield record

    def _where(self, segment: int) -> str:
        return f"{self._journal.folder}, segment {segment}"
