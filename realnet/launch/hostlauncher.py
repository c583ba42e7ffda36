"""Starts and ends the processes of a run over several hosts, through the agents of these.

To the head it is a `Launcher`. A slot goes to the agent of the host where it has its place, with
GPUs by position. The ranks of a gang meet where the agent of the first one says: the others are
started when that is known.

Knows nothing of how agents come and are missed: `hosts.py` makes it, and hands it what they say.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple, Protocol

from realnet.control import member_of
from realnet.errors import RealnetError
from realnet.launch import Exited, stacks_path
from realnet.launch.records import (
    DumpSlot,
    KillSlot,
    OpenHostArena,
    SlotEnded,
    SlotStarted,
    StartSlot,
)
from realnet.live import LiveAsk
from realnet.topology.placement import Placement
from realnet.topology.plan import Plan

ARENA_S = 60.0


class _Running(NamedTuple):
    """One process that an agent was told to start."""

    incarnation: int
    agent: str
    exited: Exited


class Agents(Protocol):
    """What is needed of those who know the agents."""

    placement: Placement

    @property
    def port(self) -> LiveAsk: ...
    def agent_of(self, host: str) -> str: ...


class HostLauncher:
    """The processes on all hosts."""

    def __init__(self, agents: Agents, plan: Plan, stacks: Path):
        self._agents, self._stacks = agents, stacks
        self._slots = {s.name: s for s in plan.slots}
        self._running: dict[str, _Running] = {}
        self._meets: dict[tuple[str, int], str] = {}

    # ------------------------------------------------------------ as a launcher

    def spawn(self, slot: str, incarnation: int, exited: Exited) -> int:
        """Have a process started; its pid is known later."""
        placement = self._agents.placement
        if placement.place(slot):
            agent = self._agents.agent_of(placement.places[slot].host)
            self._running[slot] = _Running(incarnation, agent, exited)
            self._order(slot)
        else:
            text = placement.complaint([slot])
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: exited(text, lost=True, nowhere=True))
        return 0

    def _order(self, slot: str) -> None:
        planned, (incarnation, agent, _) = self._slots[slot], self._running[slot]
        meet = self._meets.get((planned.gang, incarnation), "") if planned.gang else ""
        if planned.rank and not meet:
            return  # it is started when its leader's host has said where they meet
        gpus = self._agents.placement.places[slot].gpus
        self._agents.port.tell(StartSlot(slot, incarnation, gpus, meet), to=member_of(agent))

    def kill(self, slot: str) -> None:
        """End a process at once."""
        running = self._running.get(slot)
        if running is not None:
            order = KillSlot(slot, running.incarnation)
            self._agents.port.tell(order, to=member_of(running.agent))

    def dump(self, slot: str) -> str:
        """Make a process write its stacks, in the run's folder."""
        running = self._running.get(slot)
        if running is None:
            return ""
        self._agents.port.tell(DumpSlot(slot), to=member_of(running.agent))
        return str(stacks_path(self._stacks, slot))

    def alive(self) -> list[str]:
        """The slots whose process has not ended."""
        return list(self._running)

    async def open_arena(self, slot: str, name: str, num_bytes: int) -> str:
        """Get shared memory of the host of a slot."""
        running = self._running.get(slot)
        if running is None:
            raise RealnetError(f"{slot} has no host")
        request = OpenHostArena(name, num_bytes)
        to = member_of(running.agent)
        return (await self._agents.port(request, deadline_s=ARENA_S, to=to)).path

    # ------------------------------------------------------------ what agents say

    def on(self, agent: str) -> list[str]:
        """The slots that this agent was told to start, and that have not ended."""
        return [slot for slot, running in self._running.items() if running.agent == agent]

    def agent_with(self, slot: str, incarnation: int) -> str:
        """Return whose this life of a slot is; "" when there is no such process any more."""
        running = self._running.get(slot)
        return running.agent if running is not None and running.incarnation == incarnation else ""

    def started(self, record: SlotStarted) -> None:
        """A process is there; now the others of its gang can be."""
        gang, life = self._slots[record.slot].gang, record.incarnation
        if not gang or not record.meet or (gang, life) in self._meets:
            return
        self._meets = {k: v for k, v in self._meets.items() if k[0] != gang}
        self._meets[gang, life] = record.meet
        for other, waits in self._running.items():
            planned = self._slots[other]
            if planned.gang == gang and planned.rank and waits.incarnation == life:
                self._order(other)

    def ended(self, record: SlotEnded) -> None:
        """A process has ended by itself."""
        self._running.pop(record.slot).exited(record.how, record.refused)

    def left(self, slot: str, why: str) -> None:
        """A process is gone with its host; the place of an elastic one is gone as well."""
        nowhere = self._slots[slot].elastic
        self._running.pop(slot).exited(why, lost=True, nowhere=nowhere)
