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
from collections.abc import Callable
from typing import Any, Protocol

from realnet.actor import Actor
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
from realnet.errors import AskError, PeerDied, RealnetError
from realnet.liveness import Beats, Hung
from realnet.message import Message
from realnet.node import Node
from realnet.observe.record import Record
from realnet.ports import Ask, handles
from realnet.serving import caller
from realnet.supervision import Begin as BeginSlot
from realnet.supervision import Down, Effect, GiveUp, Restart, Slot, Spawn, Supervisor, Up
from realnet.topology.plan import Plan

TICK_S = 0.1
STAGE_S = 3.0  # what is kept for each later stage of a stop
AWAY_S = 0.5
LAST_WORDS_S = 0.02  # a process's end can be seen before what it said is read
BEGIN_LEAVE_S = 1.0
WRONG_CONFIG = "exit code 2"


class Launcher(Protocol):
    """How processes come and go. `launch/local.py` and `launch/inline.py` implement it."""

    def spawn(self, slot: str, incarnation: int, exited: Callable[[str], None]) -> int:
        """Start a process and return its pid; `exited(how)` is called once when it ends."""

    def kill(self, slot: str) -> None:
        """End a process at once. Only one that this launcher started."""

    def alive(self) -> list[str]:
        """The slots whose process has not ended."""


class HeadConfig(Config):
    """How patient the head is."""

    suspect_after_s: float = 3.0
    hung_after_s: float = 15.0
    grace_s: float = 25.0


class Status:
    """What is known of one slot, for views."""

    def __init__(self) -> None:
        self.pid = 0
        self.doing: dict[str, str] = {}
        self.waits: dict[str, tuple[tuple[str, float, tuple[str, ...]], ...]] = {}
        self.failure = ""


class Head(Actor[HeadConfig]):
    """The control plane of one run."""

    members = Ask(Begin, StopActors)

    def prepare(self, node: Node, plan: Plan, launcher: Launcher, record: Record) -> None:
        """Hand in what the head works with, before `begin`."""
        self.node, self.plan, self.launcher, self.record = node, plan, launcher, record
        self._members = node.cells[self.address.full].ports["members"]
        self.supervisor = Supervisor(
            [Slot(s.name, s.after, Restart(*_patience(plan, s.roles[0]))) for s in plan.slots]
        )
        self.beats = Beats(self.config.suspect_after_s, self.config.hung_after_s)
        self.status: dict[str, Status] = {s.name: Status() for s in plan.slots}
        self.arenas = Arenas()
        self.ended: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()
        self._peers: dict[str, Peer] = {}
        self.troubles: list[str] = []  # of the stop
        node.on_wire_error = lambda error: self.say(str(error))

    # ------------------------------------------------------------ life of a run

    def launch(self) -> None:
        """Start every process, and the head's own watch."""
        self._apply(self.supervisor.start(self.clock.now()))
        self.spawn(self._tick(), name="tick")

    async def everybody_up(self, limit_s: float) -> None:
        """Wait for those that are being started: a run that ended well has its last work done by
        all, whoever died a moment before the end or was not there yet when it came.
        """
        until_s = self.clock.now() + limit_s
        while self.clock.now() < until_s and any(
            slot.state in ("starting", "joined", "beginning")
            or (slot.state == "down" and slot.restart_at_s is not None)
            for slot in self.supervisor.slots.values()
        ):
            await self.clock.sleep(TICK_S)

    async def stop_all(self, graceful: bool, budget_s: float | None = None) -> bool:
        """Stop every role stage by stage, then every process. True if all ended by themselves.

        `budget_s` (default: the grace) is for all stages together; none may use what the later
        ones need. What went wrong in it is in `troubles`.
        """
        self.supervisor.stop()
        deadline_s = self.clock.now() + (self.config.grace_s if budget_s is None else budget_s)
        stages = self.plan.stop_order if graceful else ()
        for later, stage in zip(range(len(stages) - 1, -1, -1), stages, strict=True):
            until_s = max(deadline_s - later * STAGE_S, self.clock.now() + 1.0)
            await asyncio.gather(
                *(
                    self._stop_role(slot.name, role, until_s)
                    for slot in self.plan.slots
                    for role in stage
                    if role in slot.roles
                )
            )
        for peer in self._peers.values():
            self._tell(peer.slot, Leave())
        clean = await self._wait_gone(min(deadline_s, self.clock.now() + 3.0) if graceful else 0.0)
        for slot in self.launcher.alive():
            self.launcher.kill(slot)
        await self._wait_gone(self.clock.now() + 5.0)
        self.arenas.close()
        return clean

    async def _stop_role(self, slot: str, role: str, deadline_s: float) -> None:
        peer = next((p for p in self._peers.values() if p.slot.startswith(slot + "~")), None)
        if peer is None or self.supervisor.slots[slot].state != "up":
            return
        self.status[slot].doing[f"{role}/{slot.rpartition('/')[2]}"] = "stopping"
        left_s = max(0.1, deadline_s - self.clock.now())
        try:
            await self.members(
                StopActors(role, graceful=True), deadline_s=left_s, to=member_of(peer.slot)
            )
        except AskError as error:
            text = f"{role} in {slot} did not stop in order: {error}"
            self.troubles.append(text)
            self.say(text)

    async def _wait_gone(self, until_s: float) -> bool:
        while self.launcher.alive() and self.clock.now() < until_s:
            await self.clock.sleep(0.02)
        await self.clock.sleep(LAST_WORDS_S)
        return not self.launcher.alive()

    async def _tick(self) -> None:
        while True:
            due_s = self.clock.now() + TICK_S
            await self.clock.sleep(TICK_S)
            now_s = self.clock.now()
            if now_s - due_s > AWAY_S:
                self.say(f"the head itself stood still for {now_s - due_s:.1f} s")
                self.beats.away(now_s - due_s, now_s)
            for effect in self.beats.tick(now_s):
                if isinstance(effect, Hung):
                    self._hung(effect)
                else:
                    self.say(f"{effect.name} is silent for {effect.silent_s:.1f} s")
            self._apply(self.supervisor.tick(now_s))

    def _hung(self, effect: Hung) -> None:
        """Kill one that is silent beyond hope, while the run stops as well."""
        status = self.status[effect.name]
        doing = "; ".join(text for text in status.doing.values() if text)
        last = f" (last: {doing})" if doing else ""
        status.failure = f"has not answered for {effect.silent_s:.1f} s{last}"
        self.say(f"{effect.name} {status.failure}; killed")
        self.launcher.kill(effect.name)

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
        planned = next(s for s in self.plan.slots if s.name == name)
        actors = tuple(f"{r}/{planned.index}~{incarnation}" for r in planned.roles)
        if not self._speaks_for(peer.slot) or peer.actors != actors:
            raise RealnetError(f"{caller()} may not join as {peer.slot} with {peer.actors}")
        self.node.connect(peer)
        self._members.peer_up(member_of(peer.slot), "")
        others = tuple(self._peers.values())
        self._peers[peer.slot] = peer
        self._broadcast(PeerJoined(peer), but=peer.slot)
        self.beats.watch(name, self.clock.now())
        self.spawn(self._joined(name, int(incarnation)), name=f"begin {name}")
        return Joined(others)

    async def _joined(self, name: str, incarnation: int) -> None:
        self._apply(self.supervisor.joined(name, incarnation, self.clock.now()))

    @handles
    async def arena_wanted(self, request: OpenArena) -> ArenaOpened:
        """Somebody wants shared memory on this host."""
        return ArenaOpened(self.arenas.open(request.name, request.num_bytes))

    @handles
    async def beat(self, record: Beat) -> None:
        """The loop of a process is alive, and this is what its actors do."""
        name = record.slot.partition("~")[0]
        if not self._speaks_for(record.slot):
            return
        for recovered in self.beats.beat(name, self.clock.now()):
            self.say(f"{name} answers again after {recovered.silent_s:.1f} s")
        status = self.status[name]
        for doing in record.doing:
            status.doing[doing.actor] = doing.text
            status.waits[doing.actor] = doing.waits
            self.record.busy.add(doing.actor, [(s.start_s, s.end_s, s.label) for s in doing.spans])

    @handles
    async def observed(self, record: Observed) -> None:
        """Rows for the files."""
        for row in record.rows:
            self.record.write(row.actor, row.kind, row.time_s, json.loads(row.row))

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
            self._end(False, f"{record.actor}: {record.text}")

    @handles
    async def finish_run(self, record: Finish) -> None:
        """A role says that the run has reached its end."""
        self._end(True, record.text)

    def _speaks_for(self, slot: str) -> bool:
        """Tell whether the record being handled came from this slot itself."""
        right = caller() == member_of(slot)
        if not right:
            self.say(f"refused what {caller()} said of {slot}")
        return right

    def _end(self, well: bool, text: str) -> None:
        if not self.ended.done():
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
            elif isinstance(effect, GiveUp):
                failure = self.status[effect.slot].failure
                self._end(False, f"{effect.slot} cannot go on: {failure or effect.why}")

    def _spawn_slot(self, effect: Spawn) -> None:
        slot, incarnation = effect

        def exited(how: str) -> None:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, gone, how)

        def gone(how: str) -> None:
            failure = self.status[slot].failure
            why = f"{failure} ({how.partition(' (')[0]})" if failure else how
            fatal = how.startswith(WRONG_CONFIG)
            now_s = self.clock.now()
            self._apply(self.supervisor.exited(slot, incarnation, now_s, why, fatal))

        self.status[slot] = Status()
        self.status[slot].pid = self.launcher.spawn(slot, incarnation, exited)
        if incarnation > 1:
            times = self.supervisor.slots[slot].restarts
            self.say(f"{slot} is started again (restart {times})", slot=slot, restart=times)

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
                self.status[slot].failure = self.status[slot].failure or str(error)
                self.launcher.kill(slot)
            return
        self._apply(self.supervisor.ready(slot, incarnation, self.clock.now()))

    def _up(self, effect: Up) -> None:
        full = f"{effect.slot}~{effect.incarnation}"
        peer = self._peers[full]
        self._peers[full] = Peer(peer.slot, peer.endpoint, peer.actors, up=True)
        self._broadcast(PeerUp(full))

    def _down(self, effect: Down) -> None:
        full = f"{effect.slot}~{effect.incarnation}"
        self.beats.forget(effect.slot)
        self._peers.pop(full, None)
        self._members.peer_down(member_of(full))
        self.node.peer_down(full, effect.why)
        if not self.supervisor.stopping:
            self.say(f"{effect.slot} died: {effect.why}", slot=effect.slot)
        self._broadcast(PeerDown(full, effect.why))

    def _broadcast(self, record: Message, but: str = "") -> None:
        for slot in self._peers:
            if slot != but:
                self._tell(slot, record)

    def _tell(self, slot: str, record: Message) -> None:
        self.members.tell(record, to=member_of(slot))

    # ------------------------------------------------------------ as the owner of its node

    def actor_failed(self, address: Any, error: BaseException) -> None:
        """The head itself raised: a bug of realnet; end the run and show it."""
        self._end(False, f"the head failed: {error!r}")
        raise error

    def actor_finished(self, address: Any, text: str) -> None:
        """A role that lives in the head's own process says that the run has reached its end."""
        self._end(True, text)

    def link_broken(self, slot: str, text: str) -> None:
        """A link has a hole that cannot be repaired: the other end starts afresh."""
        name, _, incarnation = slot.partition("~")
        known = self.supervisor.slots.get(name)
        if known is not None and str(known.incarnation) == incarnation:
            self.status[name].failure = text
            self.launcher.kill(name)

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """A role that lives in the head's own process wants shared memory."""
        return self.arenas.open(name, slot_bytes * slots)


def _patience(plan: Plan, role: str) -> tuple[int, float]:
    planned = plan.roles[role]
    return planned.restarts, planned.restart_per_s
