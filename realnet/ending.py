"""The orderly end of a run: stage by stage, who makes work before who takes it; then the processes.

None of the stages may use the time that the later ones need. Knows nothing of why the run ends.
Called by `head.py`, which it asks to tell its members.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from realnet.actor import Clock
from realnet.control import Leave, Peer, StopActors, member_of
from realnet.errors import AskError
from realnet.live import LiveAsk
from realnet.roster import Status
from realnet.supervision import Supervisor
from realnet.topology.plan import Plan

STAGE_S = 3.0  # what is kept for each later stage of a stop
LEAVE_S = 3.0
KILLED_S = 5.0
LAST_WORDS_S = 0.02  # a process's end can be seen before what it said is read


class Processes(Protocol):
    """What is left to do when asking did not help."""

    def kill(self, slot: str) -> None: ...
    def alive(self) -> list[str]: ...


class Head(Protocol):
    """What an ending needs of the head."""

    clock: Clock
    plan: Plan
    supervisor: Supervisor
    status: dict[str, Status]
    peers: dict[str, Peer]

    @property
    def launcher(self) -> Processes: ...
    @property
    def members(self) -> LiveAsk: ...
    def say(self, text: str) -> None: ...
    async def stop_guests(self, role: str, deadline_s: float) -> None: ...


class Ending:
    """One stop. What went wrong in it is in `troubles`."""

    def __init__(self, head: Head):
        self._head = head
        self.troubles: list[str] = []

    async def run(self, graceful: bool, budget_s: float) -> bool:
        """Stop all within a budget of seconds. True if all processes ended by themselves."""
        head = self._head
        deadline_s = head.clock.now() + budget_s
        stages = head.plan.stop_order if graceful else ()
        for later, stage in zip(range(len(stages) - 1, -1, -1), stages, strict=True):
            until_s = max(deadline_s - later * STAGE_S, head.clock.now() + 1.0)
            await asyncio.gather(
                *(
                    self.stop_role(slot.name, role, until_s)
                    for slot in head.plan.slots
                    for role in stage
                    if role in slot.roles
                ),
                *(head.stop_guests(role, until_s) for role in stage),
            )
        for peer in head.peers.values():
            head.members.tell(Leave(), to=member_of(peer.slot))
        until_s = min(deadline_s, head.clock.now() + LEAVE_S) if graceful else 0.0
        clean = await self._wait_gone(until_s)
        for name in head.launcher.alive():
            head.launcher.kill(name)
        await self._wait_gone(head.clock.now() + KILLED_S)
        return clean

    async def stop_role(self, slot: str, role: str, deadline_s: float) -> None:
        """Drain and stop the actor of one role in one process."""
        head = self._head
        peer = next((p for p in head.peers.values() if p.slot.startswith(slot + "~")), None)
        if peer is None or head.supervisor.slots[slot].state != "up":
            return
        head.status[slot].doing[f"{role}/{slot.rpartition('/')[2]}"] = "stopping"
        left_s = max(0.1, deadline_s - head.clock.now())
        try:
            await head.members(
                StopActors(role, graceful=True), deadline_s=left_s, to=member_of(peer.slot)
            )
        except AskError as error:
            text = f"{role} in {slot} did not stop in order: {error}"
            self.troubles.append(text)
            head.say(text)

    async def _wait_gone(self, until_s: float) -> bool:
        head = self._head
        while head.launcher.alive() and head.clock.now() < until_s:
            await head.clock.sleep(0.02)
        await head.clock.sleep(LAST_WORDS_S)
        return not head.launcher.alive()
