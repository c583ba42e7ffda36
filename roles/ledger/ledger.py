"""The ledger: in which one of six states every ticket of a policy is, and how many may be issued.

    issued -> waiting -> leased -> buffered -> trained
                 \\__________\\__________\\____-> set aside | dropped     (each with a reason)

A whole group goes from waiting or leased to buffered; a buffered one goes back to waiting only when
its rollouts became useless (see `requeue`). Every move is an event; `check` recounts the states
from the events and from the tickets, and the two must agree.

Admission: waiting + leased + buffered <= (max_age + 1) * batch. What is set aside or dropped gives
its room back at once; what is trained gives it back when the version that holds it is published,
so that max_age = 0 is exactly synchronous.

Knows nothing of rollouts, files, clocks or actors. Called by the trainer's store.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Sequence

import msgspec

from realnet.errors import CheckpointError, listed
from realnet.roles.ledger.intervals import Intervals
from realnet.roles.ledger.states import (
    ALLOWED,
    ENDS,
    ISSUED,
    OPEN,
    IllegalMove,
    LedgerUnbalanced,
    TicketState,
)

MAX_REASONS = 200  # different reasons kept by text; beyond, they are counted as "other"
MAX_NOTES = 1000  # tickets kept with their reason, newest last

_S = TicketState


class _Snapshot(msgspec.Struct):
    """A ledger at rest."""

    policy: str
    batch: int
    max_age: int
    issued: int
    steps: int
    open: dict[TicketState, tuple[tuple[int, int], ...]]
    ended: dict[TicketState, tuple[tuple[int, int], ...]]
    moves: list[tuple[str, str, int]]
    reasons: dict[TicketState, dict[str, int]]
    notes: list[tuple[int, str, str]]
    recent: list[tuple[int, int]]


class Ledger:
    """All tickets of one policy, numbered from 0 in the order of issue."""

    def __init__(self, policy: str, *, batch: int, max_age: int) -> None:
        self.policy = policy
        self.batch = batch
        self.max_age = max_age
        self.issued = 0
        self.steps = 0
        self.reasons: dict[TicketState, Counter[str]] = {
            _S.SET_ASIDE: Counter(),
            _S.DROPPED: Counter(),
        }
        self.notes: deque[tuple[int, str, str]] = deque(maxlen=MAX_NOTES)
        self._open: dict[int, TicketState] = {}
        self._ended: dict[TicketState, Intervals] = {end: Intervals() for end in ENDS}
        self._moves: Counter[tuple[str, str]] = Counter()
        self._sizes: Counter[TicketState] = Counter()
        self._steps: deque[tuple[int, int]] = deque(maxlen=64)  # (step, tickets in it), newest last

    # ------------------------------------------------------------ admission

    @property
    def bound(self) -> int:
        """The most tickets that may be waiting, leased or buffered at once."""
        return (self.max_age + 1) * self.batch

    @property
    def out(self) -> int:
        """How many tickets are waiting, leased or buffered."""
        return len(self._open)

    def room(self, trained_steps: int, inside: int = 0) -> int:
        """Return how many tickets may be issued now, when `inside` open ones are with nobody.

        `trained_steps` is the last step whose version is published: tickets of later steps still
        hold their room, since the next prompts would be answered by a version before them.
        """
        unpublished = sum(size for step, size in self._steps if step > trained_steps)
        return max(0, self.bound - self.out + inside - unpublished)

    def issue(self, want: int, trained_steps: int) -> tuple[tuple[int, int], ...]:
        """Issue up to `want` new tickets, as far as there is room; return their intervals."""
        count = max(0, min(want, self.room(trained_steps)))
        if count == 0:
            return ()
        first = self.issued
        self.admit(first, first + count)
        return ((first, first + count),)

    def admit(self, start: int, end: int) -> None:
        """Enter tickets start .. end-1 as issued, as read back from a journal; known ones stay."""
        if start > self.issued:
            raise IllegalMove(
                f"tickets {start}..{end - 1} of {self.policy} would be issued while {self.issued} "
                "is next: records of the tickets between are missing"
            )
        for ticket in range(max(start, self.issued), end):
            self._open[ticket] = _S.WAITING
            self._count(ISSUED, _S.WAITING)
        self.issued = max(self.issued, end)

    def outstanding(self) -> tuple[tuple[int, int], ...]:
        """Return the intervals of all tickets that are waiting or leased."""
        return Intervals.of(sorted(t for t, s in self._open.items() if s != _S.BUFFERED)).pairs()

    # ------------------------------------------------------------ moves

    def hand(self, tickets: Iterable[int]) -> None:
        """These went to a driver. A late or repeated report changes nothing."""
        for ticket in tickets:
            if self.state(ticket) is _S.WAITING:
                self._move(ticket, _S.LEASED)

    def unhand(self, ticket: int) -> None:
        """This ticket is with nobody any more: leased -> waiting; a waiting one stays."""
        if self.state(ticket) is not _S.WAITING:
            self._move(ticket, _S.WAITING)

    def buffer(self, ticket: int) -> None:
        """The group of this ticket is whole. Repeating it changes nothing."""
        if self.state(ticket) is not _S.BUFFERED:
            self._move(ticket, _S.BUFFERED)

    def unbuffer(self, ticket: int) -> None:
        """The group of this ticket must be put together again: buffered -> leased."""
        self._move(ticket, _S.LEASED)

    def requeue(self, ticket: int) -> None:
        """The rollouts of this ticket are of no use: it is to be answered again."""
        if self.state(ticket) is not _S.WAITING:
            self._move(ticket, _S.WAITING)

    def train(self, tickets: Sequence[int]) -> None:
        """One step was taken with these buffered tickets. All move, or none and it raises."""
        if len(set(tickets)) != len(tickets):
            raise IllegalMove(f"a step of {self.policy} names a ticket twice: {sorted(tickets)}")
        for ticket in tickets:
            self._permit(ticket, _S.TRAINED)
        for ticket in tickets:
            self._move(ticket, _S.TRAINED)
        self.steps += 1
        self._steps.append((self.steps, len(tickets)))

    def set_aside(self, ticket: int, reason: str) -> None:
        """Nobody could do this ticket, and why. Repeating it changes nothing."""
        self._end(ticket, _S.SET_ASIDE, reason)

    def drop(self, ticket: int, reason: str) -> None:
        """This ticket is not to be trained with, and why. Repeating it changes nothing."""
        self._end(ticket, _S.DROPPED, reason)

    # ------------------------------------------------------------ looking

    def state(self, ticket: int) -> TicketState:
        """Return where a ticket is. Raises IllegalMove for one that was never issued."""
        found = self._open.get(ticket)
        if found is not None:
            return found
        for end, tickets in self._ended.items():
            if ticket in tickets:
                return end
        raise IllegalMove(
            f"ticket {ticket} of {self.policy} was never issued (next: {self.issued})"
        )

    def is_waiting(self, ticket: int) -> bool:
        """Tell whether this ticket was issued and nobody reported to have it."""
        return self._open.get(ticket) is _S.WAITING

    def is_open(self, ticket: int) -> bool:
        """Tell whether samples of this ticket are still wanted: it is waiting or leased."""
        return self._open.get(ticket) in (_S.WAITING, _S.LEASED)

    def tickets(self, state: TicketState) -> list[int]:
        """Return the tickets in a state, oldest first."""
        if state in self._ended:
            return list(self._ended[state])
        return sorted(t for t, s in self._open.items() if s is state)

    def oldest(self, count: int) -> list[int]:
        """Return up to `count` tickets that are waiting, leased or buffered, oldest first."""
        return heapq.nsmallest(count, self._open)

    def counts(self) -> dict[str, int]:
        """Return how many were issued and how many are in each state."""
        return {"issued": self.issued, **{s.value: self._sizes[s] for s in TicketState}}

    def line(self) -> str:
        """Return the balance as one line of text."""
        parts = [f"{self._sizes[s]} {s.value.replace('_', ' ')}" for s in TicketState]
        return f"{self.policy}: {self.issued} tickets issued = {' + '.join(parts)}"

    def check(self) -> None:
        """Recount from the tickets and from the events. Raises LedgerUnbalanced with both."""
        held = Counter(self._open.values())
        held.update({end: len(tickets) for end, tickets in self._ended.items()})
        known = Intervals.of(sorted(self._open))
        total = len(self._open)
        for tickets in self._ended.values():
            total += len(tickets)
            for start, end in tickets.pairs():
                known.add_range(start, end)
        whole = known.pairs() == (((0, self.issued),) if self.issued else ())
        flow = Counter(dict.fromkeys(TicketState, 0))
        for (before, after), count in self._moves.items():
            flow[TicketState(after)] += count
            if before != ISSUED:
                flow[TicketState(before)] -= count
        sizes = [{s.value: c[s] for s in TicketState} for c in (held, flow, self._sizes)]
        if not whole or total != self.issued or sizes[0] != sizes[1] or sizes[0] != sizes[2]:
            raise LedgerUnbalanced(
                f"the ledger of {self.policy} does not balance: {self.issued} issued, "
                f"{total} found in the intervals {known.pairs()[:5]}; by ticket {sizes[0]}, by "
                f"event {sizes[1]}, counted {sizes[2]} (this should never happen: please report it "
                "with the journal and checkpoints of the run)"
            )

    # ------------------------------------------------------------ events

    def _permit(self, ticket: int, after: TicketState) -> TicketState:
        before = self.state(ticket)
        if (before, after) not in ALLOWED:
            able = [b.value for b, a in ALLOWED if a is after]
            raise IllegalMove(
                f"ticket {ticket} of {self.policy} cannot go from {before.value} to {after.value} "
                f"(only from: {listed(able)})"
            )
        return before

    def _move(self, ticket: int, after: TicketState) -> None:
        before = self._permit(ticket, after)
        self._sizes[before] -= 1
        self._count(before.value, after)
        if after in self._ended:
            del self._open[ticket]
            self._ended[after].add(ticket)
        else:
            self._open[ticket] = after

    def _count(self, before: str, after: TicketState) -> None:
        self._moves[before, after.value] += 1
        self._sizes[after] += 1

    def _end(self, ticket: int, end: TicketState, reason: str) -> None:
        if self.state(ticket) is end:
            return
        self._move(ticket, end)
        known = self.reasons[end]
        known[reason if reason in known or len(known) < MAX_REASONS else "other"] += 1
        self.notes.append((ticket, end.value, reason))

    # ------------------------------------------------------------ snapshots

    def snapshot(self) -> bytes:
        """Return everything as bytes for `restore`."""
        return msgspec.msgpack.encode(
            _Snapshot(
                policy=self.policy,
                batch=self.batch,
                max_age=self.max_age,
                issued=self.issued,
                steps=self.steps,
                open={s: Intervals.of(self.tickets(s)).pairs() for s in OPEN},
                ended={end: tickets.pairs() for end, tickets in self._ended.items()},
                moves=[(*move, count) for move, count in sorted(self._moves.items())],
                reasons={end: dict(known) for end, known in self.reasons.items()},
                notes=list(self.notes),
                recent=list(self._steps),
            )
        )

    @classmethod
    def restore(
        cls, data: bytes, *, batch: int | None = None, max_age: int | None = None
    ) -> Ledger:
        """Return the ledger of a snapshot, with another batch or bound when these are given.

        Raises CheckpointError when the bytes do not read, and LedgerUnbalanced.
        """
        try:
            was = msgspec.msgpack.decode(data, type=_Snapshot)
        except msgspec.DecodeError as error:
            raise CheckpointError(f"the snapshot of a ledger does not read: {error}") from None
        made = cls(
            was.policy,
            batch=was.batch if batch is None else batch,
            max_age=was.max_age if max_age is None else max_age,
        )
        made.issued, made.steps = was.issued, was.steps
        for state, pairs in was.open.items():
            made._open.update(dict.fromkeys(Intervals(pairs), state))
        made._ended.update({end: Intervals(pairs) for end, pairs in was.ended.items()})
        made._moves.update({(before, after): n for before, after, n in was.moves})
        for end, reasons in was.reasons.items():
            made.reasons[end].update(reasons)
        made.notes.extend(was.notes)
        made._steps.extend(was.recent)
        made._sizes.update(made._open.values())
        made._sizes.update({end: len(tickets) for end, tickets in made._ended.items()})
        made.check()
        return made
