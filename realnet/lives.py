"""The lives of a run's processes: what the supervisor decides is carried out, and what comes of it
is handed back to it.

Knows nothing of how processes are started (a `Launcher` does that), nor of beats. Called by
`head.py`, whose other half is what members say.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from realnet.actor import Clock
from realnet.control import Begin, Peer, PeerDown, PeerUp, member_of
from realnet.ending import LAST_WORDS_S
from realnet.errors import AskError, PeerDied
from realnet.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_RETRY
from realnet.launch import Launcher
from realnet.live import LiveAsk
from realnet.message import Message
from realnet.node import Node
from realnet.patience import Patience
from realnet.roster import Status
from realnet.stalls import Stalls
from realnet.supervision import Begin as BeginSlot
from realnet.supervision import (
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
from realnet.topology.plan import Plan, SlotPlan

BEGIN_LEAVE_S = 1.0
_EXIT_CODES = {"refused": EXIT_CONFIG, "failed": EXIT_FAILED, "lost": EXIT_RETRY}
_FROM_OUTSIDE = ("killed by SIGKILL", "killed by SIGTERM", "killed by SIGHUP", "killed by SIGPWR")


class Head(Protocol):
    """What is needed of the head."""

    clock: Clock
    node: Node
    supervisor: Supervisor
    status: dict[str, Status]
    stalls: Stalls
    patience: Patience
    peers: dict[str, Peer]
    host_of: Callable[[str], str]

    @property
    def launcher(self) -> Launcher: ...
    @property
    def members(self) -> LiveAsk: ...
    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> Any: ...
    def say(self, text: str, **fields: Any) -> None: ...
    def end(self, well: bool, text: str, code: int = EXIT_FAILED) -> None: ...
    def broadcast(self, record: Message, but: str = "") -> None: ...


class Lives:
    """Carries out what the supervisor of a run decides."""

    def __init__(self, head: Head):
        self._head = head

    def apply(self, effects: list[Effect]) -> None:
        """Carry out effects, in their order."""
        for effect in effects:
            if isinstance(effect, Spawn):
                self._spawn(effect)
            elif isinstance(effect, BeginSlot):
                self._head.spawn(self._begin(effect.slot), name=f"begin {effect.slot}")
            elif isinstance(effect, Up):
                self._up(effect)
            elif isinstance(effect, Down):
                self._down(effect)
            elif isinstance(effect, Kill):
                self._take_away(effect)
            elif isinstance(effect, Drop):
                text = f"{effect.slot} is given up, the others go on: {effect.why}"
                self._head.say(text)
            elif isinstance(effect, GiveUp):
                self._give_up(effect)

    def _spawn(self, effect: Spawn) -> None:
        head, (slot, incarnation) = self._head, effect

        def exited(
            how: str, refused: bool = False, lost: bool = False, nowhere: bool = False
        ) -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(LAST_WORDS_S, self._gone, effect, how, refused, lost, nowhere)

        head.status[slot] = Status(head.status[slot].failure)
        head.status[slot].pid = head.launcher.spawn(slot, incarnation, exited)
        head.stalls.moved(head.clock.now())
        known = head.supervisor.slots[slot]
        if incarnation > 1 and head.supervisor.gang_of(slot)[0] is known:
            text = f"{slot} is started again (restart {known.restarts})"
            head.say(text, slot=slot, restart=known.restarts)

    def _gone(self, life: Spawn, how: str, refused: bool, lost: bool, nowhere: bool) -> None:
        """A process has ended, and its last words were read."""
        head, (slot, incarnation) = self._head, life
        status = head.status[slot]
        failure = status.failure
        lost = lost or status.lost or (not failure and how in _FROM_OUTSIDE)
        why = f"{failure} ({how.partition(' (')[0]})" if failure else how
        status.failure = failure or how
        now_s = head.clock.now()
        told = head.supervisor.exited(
            slot, incarnation, now_s, why, fatal=refused, lost=lost, nowhere=nowhere
        )
        self.apply(told)

    async def _begin(self, slot: str) -> None:
        head = self._head
        incarnation = head.supervisor.slots[slot].incarnation
        full = f"{slot}~{incarnation}"
        try:
            await head.members(Begin(), deadline_s=1e6, to=member_of(full))
        except PeerDied:
            return  # its exit tells the rest
        except AskError as error:
            await head.clock.sleep(BEGIN_LEAVE_S)  # it says why, and leaves by itself
            known = head.supervisor.slots[slot]
            if known.incarnation == incarnation and known.state == "beginning":
                status = head.status[slot]
                status.failure = status.failure or str(error)
                head.launcher.kill(slot)
            return
        self.apply(head.supervisor.ready(slot, incarnation, head.clock.now()))

    def _up(self, effect: Up) -> None:
        full = f"{effect.slot}~{effect.incarnation}"
        peer = self._head.peers[full]
        self._head.peers[full] = Peer(peer.slot, peer.endpoint, peer.actors, up=True)
        self._head.broadcast(PeerUp(full))

    def _down(self, effect: Down) -> None:
        head = self._head
        full = f"{effect.slot}~{effect.incarnation}"
        head.patience.forget(effect.slot, head.clock.now())
        head.peers.pop(full, None)
        head.members.peer_down(member_of(full))
        head.node.peer_down(full, effect.why)
        if not head.supervisor.stopping and not effect.with_gang:
            head.say(f"{effect.slot} died: {effect.why}", slot=effect.slot)
        head.broadcast(PeerDown(full, effect.why))

    def _take_away(self, effect: Kill) -> None:
        head = self._head
        status = head.status[effect.slot]
        if head.supervisor.slots[effect.slot].state == "starting":
            head.say(f"{effect.slot} {effect.why}; killed")
        status.failure, status.lost = status.failure or effect.why, True
        head.launcher.kill(effect.slot)

    def _give_up(self, effect: GiveUp) -> None:
        head = self._head
        cause = head.status[effect.slot].failure or effect.why
        where = head.host_of(effect.slot) or platform.node()
        text = f"{effect.slot} cannot go on (host {where}): {cause}"
        head.end(False, text, _EXIT_CODES[effect.cause])


def slot_of(plan: Plan, slot: SlotPlan) -> Slot:
    """Return a slot of the plan as it is supervised."""
    role = plan.roles[slot.roles[0]]
    restart = Restart(role.restarts, role.restart_per_s, role.restart_then, role.restart_floor)
    return Slot(slot.name, slot.after, restart, role.name, slot.gang, slot.elastic)
