"""The trainer: scored groups in, steps, new versions out; owner of the policy's ledger.

    TakeSlots -> room -> tickets        samples, closings -> journal -> acknowledged
    a batch of whole groups -> step -> version published -> checkpoint -> journal trimmed

Waits for: scored groups, the parameter server, space on the disk. A trainer that was killed starts
from its checkpoint and journal like one that was resumed. What must survive is the store's business
(`store.py`), gradients are the learner's (`learner.py`); neither knows of actors.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from realnet import Actor, Ask, Delivery, Inlet, StateIn, StateOut, doc, handles
from realnet.actor import Need, Place
from realnet.config import Shared
from realnet.errors import Refused
from realnet.message import Nothing
from realnet.roles.checkpoints.best import check_best
from realnet.roles.checkpoints.meta import digest_of_tasks
from realnet.roles.checkpoints.origin import ONLY, check_origin, policy_folder
from realnet.roles.face.track import check_trackers
from realnet.roles.journal import Journal, JournalFull
from realnet.roles.ledger import IllegalMove
from realnet.roles.messages import (
    CommitPart,
    CommitVersion,
    CopyHeld,
    GroupClosed,
    Measurements,
    OpenSlot,
    PolicyStatus,
    ReportTickets,
    Scored,
    Slots,
    TakeSlots,
    WriteRuns,
)
from realnet.roles.models.check import check_policy
from realnet.roles.tables import Policy, Schedule, Task
from realnet.roles.tasks.curriculum import fingerprint
from realnet.roles.trainer.beginning import Beginning
from realnet.roles.trainer.bell import Bell
from realnet.roles.trainer.demonstrations import demonstrations
from realnet.roles.trainer.ending import Ending
from realnet.roles.trainer.failures import Failures, Fruits, judge_arrivals
from realnet.roles.trainer.fsdp.records import Order, Report
from realnet.roles.trainer.keeper import Keeper
from realnet.roles.trainer.learner_config import (
    LearnerConfig,
    check_alone,
    check_attention,
    check_lora,
    check_reference,
    check_rule,
)
from realnet.roles.trainer.memory import training_need
from realnet.roles.trainer.publication import Publication
from realnet.roles.trainer.reading import Reading
from realnet.roles.trainer.selection import unfit_groups
from realnet.roles.trainer.stepping import Stepping
from realnet.roles.trainer.store import Store

if TYPE_CHECKING:
    from realnet.roles.trainer.learner import Learner

_PAUSE_S = 5.0  # between tries when the disk is full
_MOVE_S = 86400.0  # the longest that a move of all ranks can take
_SHOWN = 5  # set-aside tickets told one by one; the ledger counts all


class TrainerConfig(LearnerConfig):
    """`[roles.trainer]`: how the policy learns, and when to give up."""

    ends_run: Annotated[
        bool, doc("reaching run.until ends the run; false: it trains for as long as the run goes")
    ] = True
    failures: Annotated[int, doc("batches in a row without finite loss that end the run", ge=1)] = 3
    set_aside: Annotated[
        int, doc("tickets set aside in a row, none answered between, that end the run", ge=1)
    ] = 200
    unfit: Annotated[
        int, doc("groups dropped by dynamic sampling in a row that end the run", ge=1)
    ] = 2000
    canary: Annotated[
        int,
        doc("every so many versions, and first of all, generators prove their weights", ge=0),
    ] = 10
    samples: Annotated[
        int, doc("answers of each step kept in samples.train.jsonl, token by token", ge=0)
    ] = 4


class Trainer(Actor[TrainerConfig]):
    """Trains one policy. See the module."""

    shared = (Policy, Schedule, Task)
    scored = Inlet(Scored, window=1024)
    closed = Inlet(GroupClosed, joined_by="policy", window=256)
    measured = StateIn(Measurements, joined_by="policy", optional=True)
    server = Ask(OpenSlot, CommitVersion, CommitPart, WriteRuns, CopyHeld, joined_by="policy")
    status = StateOut(PolicyStatus, joined_by="policy")

    @classmethod
    def preload(cls) -> None:
        """Import torch and the models before the process joins the run."""
        import realnet.roles.trainer.learner  # noqa: F401

    @classmethod
    def probe(cls, config: TrainerConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse a GPU that is not there."""
        from realnet.roles.trainer.device import check_device

        check_device(config.device)

    @classmethod
    def check(cls, config: TrainerConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse a policy that cannot be built, a loss that does not fit it, demos that are not."""
        check_policy(shared[Policy], base)
        check_rule(config, shared[Policy])
        check_attention(config, shared[Policy])
        check_lora(config)
        check_reference(config, shared[Policy], base)
        check_best(shared[Schedule].save.best, shared[Task])
        check_trackers(shared[Schedule].track)
        check_origin(shared[Schedule].origin, shared[Policy])
        if config.warm_start.steps:
            demonstrations(shared[Task], base)

    @classmethod
    def needs(cls, config: TrainerConfig, shared: dict[type[Shared], Any], place: Place) -> Need:
        """Count what training takes, from the model's config alone."""
        return training_need(config, shared[Policy], place)

    # ------------------------------------------------------------ start

    async def start(self) -> None:
        """Load or make the policy, and everything known about its tickets.

        The ranks of a gang reach each other when all have started: they make the policy in `run`.
        """
        if self.rank:
            self._become_follower()
            return
        self._ready, self._bell = asyncio.Event(), Bell()
        self._stepping = asyncio.Lock()  # held from the choice of a batch until it is trained
        self._draining = self._finished = False
        self._full_told_s = -_PAUSE_S
        self._fruits = Fruits()
        self._asides = 0
        self._policy, self._schedule = self.one(Policy), self.one(Schedule)
        name = self.policy_name or ONLY
        folder = self._folder = policy_folder(self.run_info.folder, name)
        folder.mkdir(exist_ok=True)
        self._failures = Failures(folder / "failures", self.config.failures)
        self._loop = asyncio.get_running_loop()
        self._journal = Journal(folder / "journal", notice=self._notice)
        self._store = store = Store(name, self._policy, self._journal, self._disk_full)
        store.unfit = unfit_groups(self.config.rule)
        dealt = fingerprint(self._policy.curriculum, self.run_info.base)
        store.asks = digest_of_tasks(self.all(Task), self._policy.group, dealt)
        if self.config.backend == "plain":
            check_alone(self.num_ranks)
            await self._open()

    async def _open(self) -> None:
        """Make the learner, and bring it to where the next step begins."""
        store, folder = self._store, self._folder
        self.progress("building the model")
        self._learner: Learner = await self.compute(self._build, label="build model")
        store.tokens = self._learner.tokens
        self._reading = Reading(folder, self.config.samples, self._learner.score)
        save, every = self._schedule.save, self._schedule.eval
        self._keeper = Keeper(self, store, self._learner, folder, save, every)
        self._publication = Publication(
            *(self, self.server, self.clock.sleep, self._learner, self.config),
            self._policy.dtype,
            self.config.canary,
        )
        beginning = Beginning(self, store, self._keeper, self._learner, folder)
        await beginning.begin(self.config, self._schedule, self.all(Task))
        self._steps = Stepping(
            *(self, store, self._learner, self._reading, self._failures, self._bell.ring),
            dynamic=self.config.rule.dynamic_sampling,
        )
        self._began_s = self.clock.now() - store.trained_s
        store.on_aside = self._tell_aside
        self._ready.set()

    def _build(self) -> Learner:
        from realnet.roles.trainer.building import build_learner

        learner, told = build_learner(
            *(self._policy, self.config, self.run_info.base, self._folder / "checkpoints"),
            *(self._schedule.until.steps, self.num_ranks, self._tell),
        )
        if told:
            self._notice(f"{self.address} begins with the weights of {told}")
        return learner

    # ------------------------------------------------------------ the ranks of a gang

    def _become_follower(self) -> None:
        from realnet.roles.trainer.fsdp.follower import Follower

        base = self.run_info.base
        self._follower = Follower(
            self, self.one(Policy), self.config, base, self.rank, self.num_ranks
        )

    @handles
    async def follow(self, order: Order) -> Report:
        """Make the move that the leader orders."""
        if not self.rank:
            raise Refused(f"{self.address} leads its gang: it takes no orders")
        return await self._follower.make(order)

    def _tell(self, rank: int, order: Order) -> Future[Report]:
        asked = self.gang.ask(rank, order, deadline_s=_MOVE_S)
        return asyncio.run_coroutine_threadsafe(asked, self._loop)

    # ------------------------------------------------------------ what comes in

    @scored.handler
    async def take_scored(self, item: Delivery[Scored]) -> None:
        """Keep a sample; it is acknowledged when it is durable."""
        await self._arrived(item)

    @closed.handler
    async def take_closed(self, item: Delivery[GroupClosed]) -> None:
        """Keep the word that a group is complete."""
        await self._arrived(item)

    async def _arrived(self, item: Delivery[Scored] | Delivery[GroupClosed]) -> None:
        await self._ready.wait()
        try:
            await self._store.arrived(item.body)
        except IllegalMove as error:  # of tickets that a journal which was moved away knew
            item.set_aside(str(error))
        self._bell.ring()

    @handles
    async def take_slots(self, request: TakeSlots) -> Slots:
        """Issue tickets as soon as there is room."""
        await self._ready.wait()
        store = self._store
        while True:
            pairs = await store.take(request.want, first=request.first, asker=request.asker)
            if pairs is not None:
                known = request.standings
                return Slots(pairs, tuple(store.standings.history[known:]) if known >= 0 else ())
            ledger = store.ledger
            async with self.waiting(f"room: {ledger.out} tickets out, bound {ledger.bound}"):
                await self._bell.wait()

    @handles
    async def report_tickets(self, request: ReportTickets) -> Nothing:
        """Enter what became of tickets before they were answered."""
        await self._ready.wait()
        await self._store.report(request.handed, request.set_aside)
        self._bell.ring()
        return Nothing()

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Step until the schedule's end."""
        if self.rank:
            await self._follower.until_failed()
            return
        if not self._ready.is_set():
            async with self.waiting("the other ranks"):
                await self.gang.up()
            await self._open()
        self._bell.ring()
        await self._publish()
        if self._schedule.until.time is not None and self.config.ends_run:
            end_s = self._began_s + self._schedule.until.time
            self.spawn(self._ring_at(end_s), name="end of time")
        if self._keeper.best is not None:
            self.spawn(self._follow_measurements(), name="follow measurements")
        while not self._over():
            start_s = self.clock.now()
            await self._groups()
            if self._over():
                break
            row = await self._step(wait_s=self.clock.now() - start_s)
            if row is None:
                continue
            row["publish_s"] = await self._publish()
            self.metrics(step=self._store.step, **row)
            if self._keeper.due(self._store.step, self._elapsed_s()):
                async with self._stepping:
                    await self._keeper.save(self._elapsed_s(), wait=False)
        if not self._draining:
            await self._end()

    async def _follow_measurements(self) -> None:
        """Hear how good versions are, so that the best checkpoint stays."""
        news = await self.measured.get(background=True)
        while True:
            for one in news.newest:
                self._keeper.measured(one)
            self._bell.ring()
            news = await self.measured.changed(background=True)

    def _over(self) -> bool:
        until = self._schedule.until
        if not self.config.ends_run:
            return self._draining
        late = until.time is not None and self._elapsed_s() >= until.time
        return self._draining or late or self._store.step >= until.steps

    def _elapsed_s(self) -> float:
        return self.clock.now() - self._began_s

    async def _groups(self) -> None:
        """Wait until a batch is whole, or it is over."""
        while self._store.batch_ready() is None and not self._over():
            judge_arrivals(self._store, self.config.set_aside, self.config.unfit)
            if said := self._fruits.look(self._store.unfit_run, self._policy.batch):
                self.event(f"{said}; the last one: {self._store.ledger.notes[-1][2]}")
            async with self.waiting(self._lacking()):
                await self._bell.wait()

    def _lacking(self) -> str:
        store = self._store
        text = f"{store.assembly.ready} of {self._policy.batch} scored groups"
        if (ticket := store.held_by()) is not None:
            text += f'; [policy].over_age = "hold" waits for ticket {ticket}'
        if store.unfit_run:
            text += f"; loss.dynamic_sampling dropped the last {store.unfit_run} that came"
        return text

    async def _step(self, wait_s: float) -> dict[str, float] | None:
        """Train on one batch; return its row of metrics, or None when there is none."""
        async with self._stepping:
            return None if self._draining else await self._steps.take(wait_s)

    async def _publish(self) -> float:
        """Publish the current version and open the room that it gives; return the seconds."""
        start_s = self.clock.now()
        version = self._store.version
        await self._publication.publish(version, first=self._store.published < 0)
        self._store.published = version.number
        self._show()
        self._bell.ring()
        self.progress(f"collects for step {version.number + 1}")
        return self.clock.now() - start_s

    def _show(self) -> None:
        store = self._store
        self.status.set(PolicyStatus(store.version, store.step, store.room(), self._finished))

    # ------------------------------------------------------------ checkpoints and the end

    async def _end(self) -> None:
        """The schedule is done: save, export, close the books, end the run."""
        self._finished = True
        self._show()
        store, keeper = self._store, self._keeper
        ending = Ending(
            *(self, store, keeper, self._learner, self._folder, self._bell),
            self._schedule.save,
        )
        watched = keeper.best is not None and self.measured.value is not None
        async with self._stepping:
            await ending.end(self._elapsed_s, measured=watched, stopping=lambda: self._draining)
        self.finish(f"trained {store.step} steps")

    async def _ring_at(self, time_s: float) -> None:
        await self.clock.sleep(max(0.0, time_s - self.clock.now()))
        self._bell.ring()

    async def drain(self) -> None:
        """Finish the step that is going on and save, so that a resume goes on exactly here."""
        if self.rank:
            return
        self._draining = True
        self._bell.ring()
        if not self._ready.is_set():
            return
        async with self._stepping:
            if self._finished:
                return
            start_s = self.clock.now()
            if await self._keeper.save(self._elapsed_s()):
                took_s = self.clock.now() - start_s
                self.event(f"asked to stop; saved step {self._keeper.saved} in {took_s:.1f} s")
            await self._keeper.close_books()

    async def stop(self) -> None:
        """Let go of the journal."""
        if hasattr(self, "_journal"):
            self._journal.close()

    # ------------------------------------------------------------ words

    def _notice(self, text: str) -> None:
        """Tell something from whatever thread."""
        self._loop.call_soon_threadsafe(self.event, text)

    def _tell_aside(self, ticket: int, reason: str) -> None:
        self._asides += 1
        if self._asides <= _SHOWN:
            more = "; further ones are counted in the ledger" if self._asides == _SHOWN else ""
            self.event(f"ticket {ticket} set aside: {reason}{more}", ticket=ticket)

    async def _disk_full(self, error: JournalFull) -> None:
        now_s = self.clock.now()
        if now_s >= self._full_told_s + _PAUSE_S:  # many records may wait for the same room
            self._full_told_s = now_s
            self.event(f"{error}; trying again every {_PAUSE_S:g} s")
        async with self.waiting("space on the disk for the journal"):
            await self.clock.sleep(_PAUSE_S)
