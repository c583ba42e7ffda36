"""The head: the control plane of one run.

It starts the processes of a plan, tells everybody who is there, restarts what dies, ends what
hangs, stops all in order and says in one message how the run ended. Decisions are made by
`supervision.py`, and carried out by `lives.py`; `patience.py` looks after who is silent or stuck,
`ending.py` stops. This actor is what members talk to.

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
    PeerJoined,
    StopActors,
    member_of,
)
from realnet.ending import Ending
from realnet.errors import RealnetError
from realnet.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_OK
from realnet.guest.desk import make_desk
from realnet.host import clock_name
from realnet.launch import Launcher
from realnet.liveness import Beats
from realnet.lives import Lives, slot_of
from realnet.message import Message
from realnet.node import Node
from realnet.observe.record import Record
from realnet.observe.status import RunStatus
from realnet.patience import AWAY_S, Patience
from realnet.ports import Ask, handles
from realnet.roster import Status, ahead_of, slot_statuses
from realnet.serving import caller
from realnet.stalls import Stalls
from realnet.supervision import BOOT_S, Supervisor
from realnet.topology.plan import Plan

TICK_S = 0.1


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
        self.supervisor = Supervisor([slot_of(plan, s) for s in plan.slots], self.config.boot_s)
        self.beats = Beats(self.config.suspect_after_s, self.config.hung_after_s)
        self.stalls = Stalls(self.config.stall_s, self.clock.now())
        self.patience, self.lives = Patience(self), Lives(self)
        self.agreement = Agreement()
        self.status: dict[str, Status] = {s.name: Status() for s in plan.slots}
        self.arenas = Arenas()
        self.ended: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()
        self.peers: dict[str, Peer] = {}
        self.troubles: list[str] = []  # of the stop
        self.end_code = EXIT_OK
        self._ahead_s: dict[str, float] = {}  # slot -> how far our clock is ahead of its host's
        self.host_gone: Callable[[str, str], bool] = _no_host  # hears of links that are broken
        self.host_of: Callable[[str], str] = _this_host  # of a slot, in a run over several
        self.desk = make_desk(self, self.config.suspect_after_s)
        node.on_wire_error = lambda error: self.say(str(error))

    # ------------------------------------------------------------ life of a run

    def invite(self, slot: str) -> None:
        """A host has come that has room for a slot without one."""
        self.lives.apply(self.supervisor.invite(slot, self.clock.now()))

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
        self.lives.apply(self.supervisor.start(self.clock.now()))
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
            self.patience.tick(now_s, now_s - due_s)
            self.lives.apply(self.supervisor.tick(now_s))

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
        self.members.peer_up(member_of(peer.slot), "")
        others = tuple(self.peers.values())
        self.peers[peer.slot] = peer
        if len(self.peers) == sum(not s.elastic for s in self.plan.slots):
            self.began("processes")
        self.broadcast(PeerJoined(peer), but=peer.slot)
        now_s = self.clock.now()
        self._ahead_s[name] = ahead_of(request, now_s, clock_name())
        self.patience.watch(name, request.budgets, now_s)
        self.spawn(self._joined(name, int(incarnation)), name=f"begin {name}")
        return Joined(others)

    async def _joined(self, name: str, incarnation: int) -> None:
        self.lives.apply(self.supervisor.joined(name, incarnation, self.clock.now()))

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
        self.status[name].beat(record, now_s)
        self.patience.beat(name, record.doing, now_s)
        for doing in record.doing:
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

    def began(self, part: str) -> None:
        """A part of the beginning is over."""
        self.record.startup.over(part, self.clock.now())

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
