"""The head: the control plane of one run.

It starts the processes of a plan, tells everybody who is there, restarts what dies, ends what
hangs, stops all in order and says in one message how the run ended. Decisions are made by
`supervision.py` and `liveness.py`; this actor carries their effects out.

Knows nothing of what roles do, nor how processes are started: a `Launcher` does that. Called by
`run.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections.abc import Callable
from typing import Any

from realnet.actor import Actor
from realnet.agreement import Agreement
from realnet.arena import Arenas
from realnet.config import Config
from realnet.control import (
    ArenaOpened,
    Beat,
    Begin,
    Failed,
    Finish,
    Join,
    Joined,
    Leave,
    Observed,
    OpenArena,
    Peer,
    PeerDown,
    PeerJoined,
    PeerUp,
    StopActors,
    member_of,
)
from realnet.ending import LAST_WORDS_S, Ending
from realnet.errors import AskError, PeerDied, RealnetError
from realnet.guest.desk import make_desk
from realnet.launch import Launcher
from realnet.liveness import Beats, Hung
from realnet.message import Message
from realnet.node import Node
from realnet.observe.record import Record
from realnet.observe.status import RunStatus, chain
from realnet.ports import Ask, handles
from realnet.roster import Status, slot_statuses
from realnet.serving import caller
from realnet.stalls import Stalled, Stalls
from realnet.supervision import (
    BOOT_S,
    Down,
    Drop,
    Effect,
    GiveUp,
    Kill,
    Restart,
    Slot,
    Spawn,
    Supervisor,
    Up,
)
from realnet.supervision import Begin as BeginSlot
from realnet.topology.plan import Plan, SlotPlan

TICK_S = 0.1
AWAY_S = 0.5
SAME_CLOCK_S = 2.0  # clocks of one host differ by what a message takes; of two, by their boots
BEGIN_LEAVE_S = 1.0
DUMP_S = 0.3  # what a process that is to be killed has to write its stacks
EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_RETRY = 0, 1, 2, 75
_EXIT_CODES = {"refused": EXIT_CONFIG, "failed": EXIT_FAILED, "lost": EXIT_RETRY}
_FROM_OUTSIDE = ("killed by SIGKILL", "killed by SIGTERM", "killed by SIGHUP", "killed by SIGPWR")


class HeadConfig(Config):
    """How patient the head is."""

    suspect_after_s: float = 3.0
    hung_after_s: float = 15.0
    grace_s: float = 25.0
    boot_s: float = BOOT_S
    stall_s: float = 0.0  # 0: the run as a whole has no progress budget


class Head(Actor[HeadConfig]):
    """The control plane of one run."""

    members = Ask(Begin, StopActors)

    def prepare(self, node: Node, plan: Plan, launcher: Launcher, record: Record) -> None:
        """Hand in what the head works with, before `begin`."""
        self.node, self.plan, self.launcher, self.record = node, plan, launcher, record
        self._members = node.cells[self.address.full].ports["members"]
        self.supervisor = Supervisor([_slot(plan, s) for s in plan.slots], self.config.boot_s)
        self.beats = Beats(self.config.suspect_after_s, self.config.hung_after_s)
        self.stalls = Stalls(self.config.stall_s, self.clock.now())
        self.agreement = Agreement()
        self.status: dict[str, Status] = {s.name: Status() for s in plan.slots}
        self.arenas = Arenas()
        self.ended: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()
        self.peers: dict[str, Peer] = {}
        self.troubles: list[str] = []  # of the stop
        self.end_code = EXIT_OK
        self._then: dict[str, str] = {}  # actor -> what follows a stall
        self._ahead_s: dict[str, float] = {}  # slot -> how far our clock is ahead of its host's
        self.host_gone: Callable[[str, str], bool] = _no_host  # hears of links that are broken
        self.host_of: Callable[[str], str] = _this_host  # of a slot, in a run over several
        self.desk = make_desk(self, self.config.suspect_after_s)
        node.on_wire_error = lambda error: self.say(str(error))

    # ------------------------------------------------------------ life of a run

    def invite(self, slot: str) -> None:
        """A host has come that has room for a slot without one."""
        self._apply(self.supervisor.invite(slot, self.clock.now()))

    async def retire(self, slot: str, deadline_s: float) -> None:
        """Drain and stop what is in one process, then let it end: its host is taken away."""
        peer = next((p for p in self.peers.values() if p.slot.startswith(slot + "~")), None)
        if peer is None:
            return
        roles = next(s for s in self.plan.slots if s.name == slot).roles
        for stage in self.plan.stop_order:
            for role in stage:
                if role in roles:
                    await Ending(self).stop_role(slot, role, deadline_s)
        self._tell(peer.slot, Leave())

    def launch(self) -> None:
        """Start every process, and the head's own watch."""
        self._apply(self.supervisor.start(self.clock.now()))
        self.spawn(self._tick(), name="tick")

    async def everybody_up(self, limit_s: float) -> None:
        """Wait for those that are being started: a run that ended well has its last work done by
        all, whoever died a moment before the end or was not there yet when it came.
        """
        until_s = self.clock.now() + limit_s
        while self.clock.now() < until_s and any(s.coming for s in self.supervisor.slots.values()):
            await self.clock.sleep(TICK_S)

    async def stop_all(self, graceful: bool, budget_s: float | None = None) -> bool:
        """Stop every role stage by stage, then every process. True if all ended by themselves.

        `budget_s` (default: the grace) is for all stages together. What went wrong in it is in
        `troubles`.
        """
        self.supervisor.stop()
        ending = Ending(self)
        self.troubles = ending.troubles
        clean = await ending.run(graceful, self.config.grace_s if budget_s is None else budget_s)
        self.arenas.close()
        return clean

    async def stop(self) -> None:
        await self.desk.close()

    async def stop_guests(self, role: str, deadline_s: float) -> None:
        """Drain and stop the members of a role that guests host."""
        await self.desk.stop_role(role, deadline_s)

    async def _tick(self) -> None:
        while True:
            due_s = self.clock.now() + TICK_S
            await self.clock.sleep(TICK_S)
            now_s = self.clock.now()
            self.desk.tick(now_s, now_s - due_s if now_s - due_s > AWAY_S else 0.0)
            if now_s - due_s > AWAY_S:
                self.say(f"the head itself stood still for {now_s - due_s:.1f} s")
                self.beats.away(now_s - due_s, now_s)
                self.stalls.away(now_s - due_s, now_s)
            for effect in self.beats.tick(now_s):
                if isinstance(effect, Hung):
                    self._hung(effect)
                else:
                    self.say(f"{effect.name} is silent for {effect.silent_s:.1f} s")
            if not self.supervisor.stopping:
                for stall in self.stalls.tick(now_s):
                    self._stalled(stall)
            self._apply(self.supervisor.tick(now_s))

    def _hung(self, effect: Hung) -> None:
        """Kill one that is silent beyond hope, while the run stops as well."""
        status = self.status[effect.name]
        doing = "; ".join(text for text in status.doing.values() if text)
        last = f" (last: {doing})" if doing else ""
        self._kill(effect.name, f"has not answered for {effect.silent_s:.1f} s{last}")

    def _stalled(self, stall: Stalled) -> None:
        """Say what holds up one that makes no progress, or the run; do what its policy says.

        One that waits for others is not restarted: that would help nobody.
        """
        who = stall.name or "the run"
        lines = chain(self.plan, self.run_status())
        text = f"{who} has made no progress for {stall.quiet_s:.1f} s"
        self.say("\n  ".join([f"{text}; who waits for whom:", *lines]), stalled=who)
        slot = next((n for n, s in self.status.items() if stall.name in s.doing), "")
        if slot and self._then.get(stall.name) == "restart":
            waits = self.status[slot].waits.get(stall.name, ())
            if not any(whom for _, _, whom in waits):
                self._kill(slot, f"{text} (its budget)")

    def _kill(self, slot: str, why: str) -> None:
        """End a process that did not fail by itself; its stacks are kept."""
        status = self.status[slot]
        status.failure, status.lost = why, True
        kept = self.launcher.dump(slot)
        self.say(f"{slot} {why}; killed" + (f" (its stacks: {kept})" if kept else ""))
        life = self.supervisor.slots[slot].incarnation

        def kill() -> None:
            if self.supervisor.slots[slot].incarnation == life:
                self.launcher.kill(slot)

        if kept:
            asyncio.get_running_loop().call_later(DUMP_S, kill)
        else:
            kill()

    def run_status(self, end: str = "") -> RunStatus:
        """The present state of the run, as it is written for others to read."""
        info, now_s = self.run_info, self.clock.now()
        slots = slot_statuses(self.status, self.supervisor.slots, self.record.busy, now_s)
        slots |= self.desk.statuses(now_s)
        age_s = now_s - self.record.started_s
        for name, status in slots.items():
            status.host = self.host_of(name)
        here = platform.node()
        return RunStatus(info.name, os.getpid(), info.attempt, age_s, end, slots, here)

    def say(self, text: str, **fields: Any) -> None:
        """Write an event of the head itself."""
        self.record.write("head/0", "event", self.clock.now(), {"text": text, **fields})

    # ------------------------------------------------------------ what members say

    @handles
    async def join(self, request: Join) -> Joined:
        """A process has loaded its code."""
        peer = request.peer
        name, _, incarnation = peer.slot.partition("~")
        slot = self.supervisor.slots.get(name)
        if slot is None or str(slot.incarnation) != incarnation:
            raise RealnetError(f"{peer.slot} is not expected in this run (an old incarnation?)")
        index = name.rpartition("/")[2]  # with the rank, if it is of a gang
        planned = next(s for s in self.plan.slots if s.name == name)
        actors = tuple(f"{r}/{index}~{incarnation}" for r in planned.roles)
        if not self._speaks_for(peer.slot) or peer.actors != actors:
            raise RealnetError(f"{caller()} may not join as {peer.slot} with {peer.actors}")
        self.node.connect(peer)
        differs = self.agreement.differs(name, request.schemas)
        if differs:
            self.say(f"refused {name}: {differs}")
            return Joined((), differs)
        self._members.peer_up(member_of(peer.slot), "")
        others = tuple(self.peers.values())
        self.peers[peer.slot] = peer
        if len(self.peers) == sum(not s.elastic for s in self.plan.slots):
            self.began("processes")
        self.broadcast(PeerJoined(peer), but=peer.slot)
        now_s = self.clock.now()
        ahead_s = now_s - request.clock_s if request.clock_s else 0.0
        self._ahead_s[name] = ahead_s if abs(ahead_s) > SAME_CLOCK_S else 0.0
        self.beats.watch(name, now_s)
        for role, (budget_s, then) in request.budgets.items():
            self.stalls.watch(f"{role}/{index}", budget_s, now_s)
            self._then[f"{role}/{index}"] = then
        self.spawn(self._joined(name, int(incarnation)), name=f"begin {name}")
        return Joined(others)

    async def _joined(self, name: str, incarnation: int) -> None:
        self._apply(self.supervisor.joined(name, incarnation, self.clock.now()))

    @handles
    async def arena_wanted(self, request: OpenArena) -> ArenaOpened:
        """Somebody wants shared memory on this host."""
        if not self._is_of_the_plan("shared memory"):
            raise RealnetError("shared memory is of the run's own processes")
        slot = caller()[1:].rpartition("/")[0]
        path = await self.launcher.open_arena(slot, request.name, request.num_bytes)
        return ArenaOpened(path or self.arenas.open(request.name, request.num_bytes))

    @handles
    async def beat(self, record: Beat) -> None:
        """The loop of a process is alive, and this is what its actors do."""
        name = record.slot.partition("~")[0]
        if not self._speaks_for(record.slot):
            return
        now_s = self.clock.now()
        for recovered in self.beats.beat(name, now_s):
            self.say(f"{name} answers again after {recovered.silent_s:.1f} s")
        self.status[name].beat(record, now_s)
        for doing in record.doing:
            self.stalls.beat(doing.actor, doing.ended, doing.has_work, now_s)
            ahead_s = self._ahead_s.get(name, 0.0)
            spans = [(s.start_s + ahead_s, s.end_s + ahead_s, s.label) for s in doing.spans]
            self.record.busy.add(doing.actor, spans)

    @handles
    async def observed(self, record: Observed) -> None:
        """Rows for the files."""
        if not self._is_of_the_plan("rows"):
            return
        ahead_s = self._ahead_s.get(caller()[1:].rpartition("/")[0], 0.0)
        for row in record.rows:
            self.record.write(row.actor, row.kind, row.time_s + ahead_s, json.loads(row.row))

    @handles
    async def failed(self, record: Failed) -> None:
        """An actor raised; its process ends by itself a moment later."""
        name = record.slot.partition("~")[0]
        if not self._speaks_for(record.slot):
            return
        self.status[name].failure = record.text
        self.record.write(
            record.actor,
            "event",
            self.clock.now(),
            {"text": f"{record.actor} failed: {record.text}", "trace": record.trace},
        )
        if record.fatal:
            self.end(False, f"{record.actor}: {record.text}", EXIT_CONFIG)

    @handles
    async def finish_run(self, record: Finish) -> None:
        """A role says that the run has reached its end."""
        if self._is_of_the_plan("the end of the run"):
            self.end(True, record.text)

    def _is_of_the_plan(self, what: str) -> bool:
        """Tell whether what is being handled came from a process of the run, not from a guest."""
        right = caller()[1:].rpartition("/")[0] in self.supervisor.slots
        if not right:
            self.say(f"refused {what} from {caller()}: it is no process of the run's own")
        return right

    def _speaks_for(self, slot: str) -> bool:
        """Tell whether the record being handled came from this slot itself."""
        right = caller() == member_of(slot)
        if not right:
            self.say(f"refused what {caller()} said of {slot}")
        return right

    def end(self, well: bool, text: str, code: int = EXIT_FAILED) -> None:
        """The run has reached its end, well or not; the first who says so is believed."""
        if not self.ended.done():
            self.end_code = EXIT_OK if well else code
            self.ended.set_result((well, text))

    # ------------------------------------------------------------ effects

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                self._spawn_slot(effect)
            elif isinstance(effect, BeginSlot):
                self.spawn(self._begin(effect.slot), name=f"begin {effect.slot}")
            elif isinstance(effect, Up):
                self._up(effect)
            elif isinstance(effect, Down):
                self._down(effect)
            elif isinstance(effect, Kill):
                self._take_away(effect)
            elif isinstance(effect, Drop):
                self.say(f"{effect.slot} is given up, the others go on: {effect.why}")
            elif isinstance(effect, GiveUp):
                self._give_up(effect)

    def _take_away(self, effect: Kill) -> None:
        status = self.status[effect.slot]
        if self.supervisor.slots[effect.slot].state == "starting":
            self.say(f"{effect.slot} {effect.why}; killed")
        status.failure, status.lost = status.failure or effect.why, True
        self.launcher.kill(effect.slot)

    def _give_up(self, effect: GiveUp) -> None:
        status = self.status[effect.slot]
        cause = status.failure or effect.why
        where = self.host_of(effect.slot) or platform.node()
        text = f"{effect.slot} cannot go on (host {where}): {cause}"
        self.end(False, text, _EXIT_CODES[effect.cause])

    def _spawn_slot(self, effect: Spawn) -> None:
        slot, incarnation = effect

        def exited(
            how: str, refused: bool = False, lost: bool = False, nowhere: bool = False
        ) -> None:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, gone, how, refused, lost, nowhere)

        def gone(how: str, refused: bool, lost: bool, nowhere: bool) -> None:
            status = self.status[slot]
            failure = status.failure
            lost = lost or status.lost or (not failure and how in _FROM_OUTSIDE)
            why = f"{failure} ({how.partition(' (')[0]})" if failure else how
            status.failure = failure or how
            now_s = self.clock.now()
            self._apply(
                self.supervisor.exited(
                    slot, incarnation, now_s, why, fatal=refused, lost=lost, nowhere=nowhere
                )
            )

        was = self.status[slot]
        self.status[slot] = Status(was.failure)
        self.status[slot].pid = self.launcher.spawn(slot, incarnation, exited)
        self.stalls.moved(self.clock.now())
        known = self.supervisor.slots[slot]
        if incarnation > 1 and self.supervisor.gang_of(slot)[0] is known:
            text = f"{slot} is started again (restart {known.restarts})"
            self.say(text, slot=slot, restart=known.restarts)

    async def _begin(self, slot: str) -> None:
        incarnation = self.supervisor.slots[slot].incarnation
        full = f"{slot}~{incarnation}"
        try:
            await self.members(Begin(), deadline_s=1e6, to=member_of(full))
        except PeerDied:
            return  # its exit tells the rest
        except AskError as error:
            await self.clock.sleep(BEGIN_LEAVE_S)  # it says why, and leaves by itself
            known = self.supervisor.slots[slot]
            if known.incarnation == incarnation and known.state == "beginning":
                status = self.status[slot]
                status.failure = status.failure or str(error)
                self.launcher.kill(slot)
            return
        self._apply(self.supervisor.ready(slot, incarnation, self.clock.now()))

    def _up(self, effect: Up) -> None:
        full = f"{effect.slot}~{effect.incarnation}"
        peer = self.peers[full]
        self.peers[full] = Peer(peer.slot, peer.endpoint, peer.actors, up=True)
        self.broadcast(PeerUp(full))

    def began(self, part: str) -> None:
        """A part of the beginning is over."""
        self.record.startup.over(part, self.clock.now())

    def _down(self, effect: Down) -> None:
        full = f"{effect.slot}~{effect.incarnation}"
        self.beats.forget(effect.slot)
        for actor in self.status[effect.slot].doing:
            self.stalls.forget(actor)
        self.stalls.moved(self.clock.now())
        self.peers.pop(full, None)
        self._members.peer_down(member_of(full))
        self.node.peer_down(full, effect.why)
        if not self.supervisor.stopping and not effect.with_gang:
            self.say(f"{effect.slot} died: {effect.why}", slot=effect.slot)
        self.broadcast(PeerDown(full, effect.why))

    def broadcast(self, record: Message, but: str = "") -> None:
        """Tell every process of the run, and its guests."""
        for slot in self.peers:
            if slot != but:
                self._tell(slot, record)

    def _tell(self, slot: str, record: Message) -> None:
        self.members.tell(record, to=member_of(slot))

    # ------------------------------------------------------------ as the owner of its node

    def actor_failed(self, address: Any, error: BaseException) -> None:
        """The head itself raised: a bug of realnet; end the run and show it."""
        self.end(False, f"the head failed: {error!r}")
        raise error

    def actor_finished(self, address: Any, text: str) -> None:
        """A role that lives in the head's own process says that the run has reached its end."""
        self.end(True, text)

    def link_broken(self, slot: str, text: str) -> None:
        """A link has a hole that cannot be repaired: the other end starts afresh."""
        name, _, incarnation = slot.partition("~")
        known = self.supervisor.slots.get(name)
        if known is not None and str(known.incarnation) == incarnation:
            self.status[name].failure, self.status[name].lost = text, True
            self.launcher.kill(name)
        elif not self.host_gone(slot, text):
            self.desk.link_broken(slot, text)

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """A role that lives in the head's own process wants shared memory."""
        return self.arenas.open(name, slot_bytes * slots)


def _this_host(slot: str) -> str:
    return ""


def _no_host(slot: str, why: str) -> bool:
    return False


def _slot(plan: Plan, slot: SlotPlan) -> Slot:
    role = plan.roles[slot.roles[0]]
    restart = Restart(role.restarts, role.restart_per_s, role.restart_then, role.restart_floor)
    return Slot(slot.name, slot.after, restart, role.name, slot.gang, slot.elastic)
