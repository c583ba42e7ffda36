"""What the trainer knows durably: ledger, groups and lineage, rebuilt from checkpoint and journal.

Everything that changes what it knows is a record. A record is applied and queued for the journal in
one go, so memory and journal have one order; whoever is told of it is told after it is durable.
A step's batch is journaled before the step: what is durable in the journal's order includes all the
rollouts of that batch.

Steps are not journaled: a step is durable with its checkpoint. After a death the tickets of later
steps are buffered again.

Knows nothing of models, actors or clocks. Called by `trainer.py`; a successor after kill -9 runs
the same code as a resume.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from realnet.errors import CheckpointError, RealnetError
from realnet.message import Message
from realnet.roles.checkpoints.checkpoint import Found
from realnet.roles.checkpoints.meta import Meta, read_meta
from realnet.roles.journal import Journal, JournalFull
from realnet.roles.ledger import Intervals, Ledger, Lineage, TicketState
from realnet.roles.messages import Group, GroupClosed, Scored, Version
from realnet.roles.tables import Policy
from realnet.roles.trainer import records
from realnet.roles.trainer.assembly import Assembly, Hopeless
from realnet.roles.trainer.batches import Batches
from realnet.roles.trainer.record_writer import RecordWriter
from realnet.roles.trainer.records import Batch, Ended, Forked, Handed, Issued, Redo
from realnet.roles.trainer.staleness import Lateness, stale
from realnet.roles.trainer.standing import Standings

Pairs = tuple[tuple[int, int], ...]
_STANDINGS = "standings.msgpack"  # only of a run with a curriculum


class Store:
    """Ledger, assembly and lineage of one policy behind one journal."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        journal: Journal,
        full: Callable[[JournalFull], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.journal = journal
        self.ledger = Ledger(name, batch=policy.batch, max_age=policy.max_age)
        self.assembly = Assembly(name, self._wanted)
        self.lineage = Lineage(name)
        self.published = -1  # the last step whose version generators can have; -1: none yet
        self.trained_s = 0.0
        self.asks = ""  # digest of what tickets ask: of the tasks and the answers a ticket
        self.tokens = ""  # digest of the vocabulary
        self.origin = ""  # the run and version that this run was forked from
        self.lost_steps = 0  # steps begun after the checkpoint that `rebuild` found
        self.fruitless = 0  # tickets set aside since the last whole group
        self.unfit: Callable[[Group], str] = lambda group: ""  # why not to train on it; "": do
        self.unfit_run = 0  # whole groups dropped as unfit since one was kept
        self.lateness = Lateness(policy)
        self.standings = Standings()
        self.unfit_step = 0  # the same, since the last step
        self.on_aside: Callable[[int, str], None] = lambda ticket, reason: None
        self._writer = RecordWriter(journal, full)
        self._redo: set[int] = set()  # open tickets that nobody has: to go out again
        self._holders: dict[int, str] = {}  # ticket that is out -> who was given it
        self._batches = Batches(policy, self.assembly, lambda count: self.ledger.oldest(count))
        self._first_segment: dict[int, int] = {}  # where the oldest sample of an open ticket is

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return self.ledger.steps

    @property
    def version(self) -> Version:
        """The version that the next batch is trained with."""
        return Version(self.name, self.lineage.current, self.ledger.steps)

    def signs(self) -> dict[str, float]:
        """Return what a row of metrics says of tickets and arrivals."""
        counts = {f"tickets_{state}": float(n) for state, n in self.ledger.counts().items()}
        if self.policy.over_age == "requeue":
            counts["tickets_requeued"] = float(self.lateness.requeued)
        return {**counts, "duplicates": float(self.assembly.duplicates)}

    # ------------------------------------------------------------ rebuilding (blocking)

    def rebuild(self, found: Found | None) -> None:
        """Load the checkpoint, then replay the journal. Raises CheckpointError.

        The journal must be open. Afterwards call `resume` if there was a checkpoint.
        """
        count, begin = 0, 0
        if found is not None:
            begin = self._load(found)
        for entry in self.journal.replay(begin):
            count += 1
            where = f"{self.journal.folder}, segment {entry.segment}"
            self._apply(records.unpack(entry.kind, entry.body, where), entry.segment)
        if found is None:
            if count:
                raise CheckpointError(
                    f"{self.journal.folder} holds {count} records but there is no checkpoint that "
                    "they follow: bring the checkpoints folder back, or move the journal away to "
                    "start over"
                )
            return
        self.lost_steps = self._batches.keep_after(self.step)
        self.fruitless = 0  # what ended the life before may have been mended
        self.ledger.check()

    def _load(self, found: Found) -> int:
        """Load a checkpoint; return the first segment of the journal that tells what it lacks."""
        meta = read_meta(found)
        if meta.policy != self.name:
            raise CheckpointError(f"{found.folder} is of policy {meta.policy}, not {self.name}")
        self.ledger = Ledger.restore(
            found.read("ledger.msgpack"), batch=self.policy.batch, max_age=self.policy.max_age
        )
        self.lineage = Lineage.restore(found.read("lineage.msgpack"))
        if (found.folder / _STANDINGS).is_file():
            self.standings.restore(found.read(_STANDINGS))
        self.trained_s = meta.trained_s
        self.origin = meta.origin
        if (meta.number, found.step) != (self.step, self.step):
            raise CheckpointError(
                f"{found.folder} says step {meta.number} and its ledger {self.step}: its files are "
                "of different checkpoints"
            )
        for ticket in self.ledger.tickets(TicketState.BUFFERED):
            self.ledger.unbuffer(ticket)  # its rollouts are in the journal: whole again in a moment
        return meta.journal_from

    def fork(self, lineage: Lineage, at: Version, origin: str) -> None:
        """Begin this run with the weights of another's version: a ledger and a branch of its own.

        Steps are counted from 0 again. The branch is one that the other run had not used by then,
        so no version has the name of one that the weights came through. Durable with the first
        checkpoint, before which nothing is published.
        """
        lineage.policy = self.name
        lineage.resume(Version(self.name, at.branch, 0))  # in the numbers of this run
        self.lineage = lineage
        self.origin = origin

    async def resume(self, at: Version, asked: str = "") -> int:
        """Open a new branch, durable, at the version that was loaded.

        Groups of which every token will be too old when their turn comes (the steps that were lost
        wrote them) are answered again: a step on them would teach nothing. So are tickets answered
        in part, when they asked something else then (`asked` is not `asks`): a group compares
        answers to one question. Returns how many.
        """
        parent, number = at.branch, at.number
        branch = self.lineage.resume(at)
        self._redo = set(self.ledger.tickets(TicketState.WAITING))
        self._holders.clear()  # whoever had them may be no more: a resumed run can lack its role
        useless = self._stale(branch)
        if asked and asked != self.asks:
            useless += tuple(self.assembly.partial())
        await self._keep(Forked(branch, parent, number), *([Redo(useless)] if useless else []))
        return len(useless)

    def _stale(self, branch: int) -> tuple[int, ...]:
        """Return the tickets of whole groups without any token that will carry gradient."""
        plans = self._batches.plans
        planned = [t for step in sorted(plans) for t in plans[step]]
        groups = {g.key.ticket: g for g in self.assembly.oldest(self.assembly.ready)}
        turn = dict.fromkeys([*(t for t in planned if t in groups), *groups])
        at = Version(self.name, branch, self.step)
        return stale([groups[ticket] for ticket in turn], self.lineage, at, self.policy)

    # ------------------------------------------------------------ tickets

    def room(self) -> int:
        """Return how many tickets may go out now, again or new; none before a publication."""
        if self.published < 0:
            return 0
        return self.ledger.room(self.published, inside=len(self._redo))

    async def take(self, want: int, *, first: bool, asker: str = "") -> Pairs | None:
        """Give tickets out once that is durable; None: there is no room now.

        With `first`, a new life of the prompter, all that it has not finished is to go out again,
        and nothing new does; what another asker has stays there. Of what nobody has, as after a
        resume, it gets as many as it still wants: the others may want some, too. After a rollback
        that can be more than the bound: the rest follows later. `first` without wanting any gives
        back what an earlier life of the asker had.
        """
        if self.published < 0:
            return None
        chosen = sorted(self._redo)
        if first:
            chosen = self._outstanding(asker, want)
            self._redo.update(chosen, self._nobodys())  # what is not chosen follows: it holds room
        able = min(self.room(), want if not first else self.ledger.out)
        again = chosen[:able] if want else []
        if again or first:
            self._redo.difference_update(again)
            self._holders.update(dict.fromkeys(again, asker))
            return Intervals.of(again).pairs()
        start, end = self.ledger.issued, self.ledger.issued + able
        if end == start:
            return None
        rewards = self.standings.due(self.step) if self.policy.curriculum else {}
        try:
            await self._keep(Issued(start, end, rewards, asker))
        except BaseException:  # the asker never learns of them: give them to the next one
            self._redo.update(range(start, end))
            raise
        return ((start, end),)

    def _outstanding(self, asker: str, want: int) -> list[int]:
        """Return what an asker had, and of what nobody has so many that it has what it wants."""
        out = list(Intervals(self.ledger.outstanding()))
        mine = [t for t in out if self._holders.get(t) == asker]
        if not want:
            for ticket in mine:
                del self._holders[ticket]
            return mine
        nobodys = [t for t in out if t not in self._holders or t in self._redo]
        spare = [t for t in nobodys if self._holders.get(t) != asker]
        return sorted(mine + spare[: max(0, want - len(mine))])

    def _nobodys(self) -> list[int]:
        """Return what an earlier life issued and did not finish, and nobody asked for since."""
        return [t for t in Intervals(self.ledger.outstanding()) if t not in self._holders]

    async def report(self, handed: Iterable[int], set_aside: Iterable[tuple[int, str]]) -> None:
        """Enter what a prompter tells.

        What is late, repeated or of a ticket that nobody knows any more changes nothing.
        """
        known = [t for t in handed if self.ledger.is_waiting(t)]
        if known:
            self._apply(Handed(tuple(known)), self.journal.segment)
            self._writer.queue(Handed(tuple(known)))
        news = [(t, reason) for t, reason in set_aside if self.ledger.is_open(t)]
        await self._keep(*(Ended(ticket, reason) for ticket, reason in news))

    # ------------------------------------------------------------ arrivals

    async def arrived(self, item: Scored | GroupClosed) -> None:
        """Take in a sample or a closing; returns when it is durable, a duplicate's first copy too.

        Raises IllegalMove for a ticket that was never issued.
        """
        key = item.key if isinstance(item, GroupClosed) else item.rollout.key.ticket
        if key.policy == self.name:
            self.ledger.state(key.ticket)
        await self._keep(item)

    # ------------------------------------------------------------ steps

    def batch_ready(self) -> list[Group] | None:
        """Return the groups of the next step, the same as before a death; None: not enough."""
        return self._batches.next(self.step + 1)

    def held_by(self) -> int | None:
        """Return the first ticket without a whole group that `over_age = "hold"` waits for."""
        return self._batches.held_by()

    async def retire(self, groups: Sequence[Group]) -> int:
        """Send away what `over_age` does not want in the next step; return how many groups.

        A batch that was begun before a death is the same again: nothing of it goes.
        """
        if self._batches.begun(self.step + 1):
            return 0
        going = self.lateness.going(groups, self.lineage, self.version)
        if going and self.policy.over_age == "requeue":
            await self._keep(Redo(going))
        elif going:
            reason = f"a token is older than {self.policy.max_age} versions at its turn"
            await self._keep(*(Ended(ticket, reason, dropped=True) for ticket in going))
        return len(going)

    async def begin_step(self, groups: Sequence[Group]) -> None:
        """Make durable that these groups are the next step's, and so everything in them."""
        tickets = tuple(group.key.ticket for group in groups)
        if self._batches.plans.get(self.step + 1) != tickets:
            await self._keep(Batch(self.step + 1, tickets))
        else:
            await self._writer.sync()

    def trained(self, groups: Sequence[Group]) -> Version:
        """The step was taken; return the version it made. Durable with the next checkpoint."""
        tickets = [group.key.ticket for group in groups]
        self.ledger.train(tickets)
        self._batches.plans.pop(self.step, None)
        self.lateness.trained(tickets)
        for ticket in tickets:
            self._forget(ticket)
        return self.version

    async def dropped(self, groups: Sequence[Group], reason: str) -> None:
        """These groups are not to be trained with."""
        await self._keep(*(Ended(g.key.ticket, reason, dropped=True) for g in groups))

    # ------------------------------------------------------------ checkpoints

    def snapshot(self) -> dict[str, bytes]:
        """Return the small files of a checkpoint. Raises LedgerUnbalanced."""
        self.ledger.check()
        version = self.version
        needed = min([*self._first_segment.values(), self.journal.segment])
        meta = Meta(
            policy=self.name,
            branch=version.branch,
            number=version.number,
            journal_from=needed,
            trained_s=self.trained_s,
            asks=self.asks,
            tokens=self.tokens,
            origin=self.origin,
        )
        small = {_STANDINGS: self.standings.snapshot()} if self.standings.history else {}
        return {
            **small,
            "ledger.msgpack": self.ledger.snapshot(),
            "lineage.msgpack": self.lineage.snapshot(),
            "meta.json": msgspec.json.format(msgspec.json.encode(meta)),
        }

    # ------------------------------------------------------------ records

    async def _keep(self, *news: Message) -> None:
        """Apply records and make them durable, in one order."""
        segment = self.journal.segment
        await self._writer.write([record for record in news if self._apply(record, segment)])

    def _apply(self, record: Message, segment: int) -> bool:
        """Change what is known. Returns False for what changes nothing: a duplicate."""
        match record:
            case Scored() | GroupClosed():
                return self._arrive(record, segment)
            case Issued(start, end, rewards, asker):
                self.ledger.admit(start, end)
                self._holders.update(dict.fromkeys(range(start, end), asker))
                if rewards:
                    self.standings.enter(start, rewards, self.step)
            case Handed(tickets):
                self.ledger.hand(tickets)
            case Ended(ticket, reason, dropped):
                return self._end(ticket, reason, dropped=dropped)
            case Redo(tickets):
                self._ask_again(tickets)
            case Forked(branch, parent, number):
                self.lineage.record(branch, parent, number)
            case Batch(step, tickets):
                self._batches.plans[step] = tickets
            case _:
                raise RealnetError(
                    f"the journal holds a {type(record).__name__}: not the trainer's"
                )
        return True

    def _arrive(self, item: Scored | GroupClosed, segment: int) -> bool:
        before = self.assembly.duplicates
        if isinstance(item, Scored):
            ticket = item.rollout.key.ticket.ticket
            result = self.assembly.add(item)
        else:
            ticket = item.key.ticket
            result = self.assembly.close(item)
        if self.assembly.duplicates > before:
            return False
        self._first_segment.setdefault(ticket, segment)
        if isinstance(result, Hopeless):
            self._end(ticket, result.reason, dropped=False)
        elif result is not None:
            self._whole(result)
        return True

    def _whole(self, group: Group) -> None:
        """Keep a whole group for a step, or drop it at once: its room is free then.

        What is unfit follows from the group alone, so a journal that is replayed decides the same.
        """
        self.fruitless = 0
        self.standings.add(group)
        ticket, reason = group.key.ticket, self.unfit(group)
        if reason:
            self._end(ticket, reason, dropped=True)
            self.unfit_run += 1
            self.unfit_step += 1
            return
        self.ledger.buffer(ticket)
        self._redo.discard(ticket)
        self._holders.pop(ticket, None)
        self.unfit_run = 0

    def _end(self, ticket: int, reason: str, *, dropped: bool) -> bool:
        state = self.ledger.state(ticket)
        if state not in (TicketState.WAITING, TicketState.LEASED, TicketState.BUFFERED):
            return False
        (self.ledger.drop if dropped else self.ledger.set_aside)(ticket, reason)
        self._forget(ticket)
        if not dropped:
            self.fruitless += 1
            self.on_aside(ticket, reason)
        return True

    def _ask_again(self, tickets: Iterable[int]) -> None:
        for ticket in tickets:
            if self.ledger.is_open(ticket) or self.assembly.whole(ticket) is not None:
                self.ledger.requeue(ticket)
                self._forget(ticket)
                self._redo.add(ticket)

    def _forget(self, ticket: int) -> None:
        self.assembly.forget(ticket)
        self._first_segment.pop(ticket, None)
        self._redo.discard(ticket)
        self._holders.pop(ticket, None)

    def _wanted(self, ticket: int) -> bool:
        return self.ledger.is_open(ticket)
