"""The hosts of a run, as its head sees them: agents come, are given slots, and are missed.

An actor beside the head. Agents say hello, beat and tell of ends; one that is silent for
`lost_after_s` is lost with its host, and all that lived there. It is fenced: nothing that it says
counts any more, it is told to end when it can be told, and its lease ends it. How they are gathered
in the beginning is `gathering.py`; what the head starts and ends on them is `hostlauncher.py`.

Knows nothing of what roles do, nor how agents are started. Used by `run.py`.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec

from realnet.actor import Actor
from realnet.address import parse_address
from realnet.config import Config
from realnet.control import Peer, member_of
from realnet.errors import RealnetError
from realnet.exits import EXIT_FENCED, EXIT_NEVER
from realnet.launch import stacks_folder
from realnet.launch.fitness import unfit_alone
from realnet.launch.gathering import Agent, Gathering, host_of
from realnet.launch.hostlauncher import HostLauncher
from realnet.launch.records import (
    HOSTS,
    AgentBeat,
    ComeBy,
    Go,
    HeadBeat,
    Hello,
    Leaving,
    Left,
    OpenHostArena,
    Reach,
    SlotEnded,
    SlotStarted,
    Welcome,
)
from realnet.launch.wanted import Wanted
from realnet.liveness import Beats, Hung
from realnet.node import Node
from realnet.ports import Ask, handles
from realnet.roster import Status
from realnet.serving import caller
from realnet.supervision import Supervisor
from realnet.topology.placement import Placement
from realnet.topology.plan import Plan

AWAY_S = 0.5
LEAVE_S = 8.0  # for what is on a host that is taken away


class HostsConfig(Config):
    """How patient the head is with hosts, and agents with the head."""

    lost_after_s: float = 4.0
    lease_s: float = 6.0
    idle_s: float = 60.0
    beat_s: float = 0.5
    gather_s: float = 60.0


class Head(Protocol):
    """What is needed of the head."""

    supervisor: Supervisor
    status: dict[str, Status]

    def say(self, text: str, **fields: Any) -> None: ...
    def began(self, part: str) -> None: ...
    def invite(self, slot: str) -> None: ...
    async def retire(self, slot: str, deadline_s: float) -> None: ...


class Hosts(Actor[HostsConfig]):
    """The agents of a run."""

    port = Ask(OpenHostArena, Reach)

    def prepare(self, node: Node, plan: Plan, folder: Path, nonce: str, wanted: Wanted) -> None:
        """Hand in what it works with, before `open`."""
        self.node, self.plan, self.nonce = node, plan, nonce
        self.attempt = node.run_info.attempt
        self.placement = Placement(plan)
        self.launcher = HostLauncher(self, plan, stacks_folder(folder, self.attempt))
        self.agents: dict[str, Agent] = {}
        self.came = asyncio.Event()
        self._gathering = Gathering(self, plan, folder, self.attempt, wanted)
        self._placed = False
        self._beats = Beats(self.config.lost_after_s / 2, self.config.lost_after_s)
        self._sent_away: set[str] = set()
        self._by_host: dict[str, str] = {}

    def open(self, head: Head) -> None:
        """Begin to listen for agents."""
        self.head = head
        self.spawn(self._tick(), name="hosts")

    async def gather(self) -> None:
        """Wait for the hosts that are wanted and give every slot its place.

        Raises RealnetError naming the hosts that are missing, unfit, or too small.
        """
        await self._gathering.run(self.config.gather_s)
        self._placed = True

    def take_early(self) -> None:
        """Use those who came for elastic members before the others, now that all else starts."""
        for name, agent in list(self.agents.items()):
            if agent.come and agent.hello.elastic:
                self._has_come(name, agent)

    def agent_of(self, host: str) -> str:
        """Return the agent of a host that is there."""
        return self._by_host[host]

    def host_of(self, slot: str) -> str:
        """Return the name of the host of a slot, or ""."""
        place = self.placement.places.get(slot)
        return place.host if place is not None else ""

    async def let_go(self, why: str, *, limit_s: float = 3.0) -> None:
        """End all agents and wait for them, not for long. For them it is an end in order."""
        for name in self.agents:
            self.port.tell(Go(0, why), to=member_of(name))
        until_s = self.clock.now() + limit_s
        while self.agents and self.clock.now() < until_s:
            await self.clock.sleep(0.02)

    # ------------------------------------------------------------ what agents say

    @handles
    async def hello(self, request: Hello) -> Welcome:
        """An agent has started."""
        name, host = request.slot.partition("~")[0], request.host
        if caller() != member_of(request.slot):
            raise RealnetError(f"{caller()} may not come as {request.slot}")
        welcome = Welcome(self.plan.digest(), self.nonce, self.config.beat_s, self.config.lease_s)
        if request.attempt != self.attempt or request.nonce != self.nonce:
            text = f"this is attempt {self.attempt}; it came for attempt {request.attempt}"
            self.head.say(f"refused {host}: {text}")
            return Welcome(welcome.digest, self.nonce, refused=text)
        if self.head.supervisor.stopping:
            return Welcome(welcome.digest, self.nonce, refused="the run is ending")
        for known in [a for a in self.agents if a.partition("~")[0] == name]:
            self.lose(known, "it has started again")
        for known in [a for a in self._sent_away if a.partition("~")[0] == name]:
            self._cut(known, "it has started again")
        if host in self._by_host:  # two shares of one machine are two hosts, as far as we care
            host = f"{host}+{name.rpartition('/')[2]}"
        offset_s = time.time() - request.wall_s if request.wall_s else 0.0
        hello = msgspec.structs.replace(request, host=host, wall_s=offset_s)  # how clocks differ
        self.node.connect(Peer(request.slot, request.endpoint, (member_of(request.slot),)))
        self.port.peer_up(member_of(request.slot), "")
        self.agents[request.slot] = Agent(hello)
        self._by_host[host] = request.slot
        self._beats.watch(request.slot, self.clock.now())
        return welcome

    def _has_come(self, name: str, agent: Agent) -> None:
        """An agent has heard our answer. One that came later is looked at, then used."""
        agent.come = True
        self.came.set()
        if not self._placed:
            return
        hello = agent.hello
        self.head.say(f"{hello.host} has come" + f" for {hello.elastic}" * bool(hello.elastic))
        why = unfit_alone(hello)
        if why:
            self.exclude(name, why)
            return
        self.placement.add(host_of(hello))
        self._fill()

    def _fill(self) -> None:
        """Start what had no place and has one now."""
        for slot in self.head.supervisor.slots.values():
            if slot.state in ("absent", "dropped") and self.placement.place(slot.name):
                self.head.invite(slot.name)

    @handles
    async def beat(self, record: AgentBeat) -> None:
        """An agent is alive."""
        agent = self.agents.get(record.slot)
        if agent is None or not self._speaks_for(record.slot):
            return
        if not agent.come:
            self._has_come(record.slot, agent)
        for recovered in self._beats.beat(record.slot, self.clock.now()):
            self.head.say(f"{agent.hello.host} answers again after {recovered.silent_s:.1f} s")

    @handles
    async def started(self, record: SlotStarted) -> None:
        """A process is there."""
        agent = self.launcher.agent_with(record.slot, record.incarnation)
        if agent and self._speaks_for(agent):
            self.head.status[record.slot].pid = record.pid
            self.launcher.started(record)

    @handles
    async def slot_ended(self, record: SlotEnded) -> None:
        """A process has ended."""
        name = self.launcher.agent_with(record.slot, record.incarnation)
        if not name or not self._speaks_for(name):
            return
        agent = self.agents.get(name)
        if agent is not None and agent.leaving:
            self.placement.free(record.slot)
            self.launcher.left(record.slot, f"left with {agent.hello.host}")
        else:
            self.launcher.ended(record)

    @handles
    async def agent_leaves(self, record: Leaving) -> None:
        """A host is being taken away: what is there ends in order."""
        agent = self.agents.get(record.slot)
        if agent is None or agent.leaving or not self._speaks_for(record.slot):
            return
        agent.leaving = record.why
        host = agent.hello.host
        self.head.say(f"{host} leaves: {record.why}")
        self.spawn(self._let_leave(record.slot), name=f"leave {host}")

    @handles
    async def agent_left(self, record: Left) -> None:
        """An agent has ended all that was on its host, and ends."""
        if not self._speaks_for(record.slot):
            return
        if record.slot in self.agents:
            self.lose(record.slot, record.why)
        elif record.slot in self._sent_away:
            self._cut(record.slot, record.why)

    async def _let_leave(self, name: str) -> None:
        agent = self.agents[name]
        until_s = self.clock.now() + LEAVE_S
        await asyncio.gather(*(self.head.retire(s, until_s) for s in self.launcher.on(name)))
        while self.launcher.on(name) and self.clock.now() < until_s:
            await self.clock.sleep(0.05)
        if name in self.agents:
            self.port.tell(Go(0, agent.leaving), to=member_of(name))

    def _speaks_for(self, name: str) -> bool:
        right = caller() == member_of(name)
        if not right:
            self.head.say(f"refused what {caller()} said of {name}")
        return right

    # ------------------------------------------------------------ who is lost

    async def _tick(self) -> None:
        while True:
            due_s = self.clock.now() + self.config.beat_s
            await self.clock.sleep(self.config.beat_s)
            now_s = self.clock.now()
            for name in self.agents:
                self.port.tell(HeadBeat(self.attempt), to=member_of(name))
            if now_s - due_s > AWAY_S:
                self._beats.away(now_s - due_s, now_s)
            for effect in self._beats.tick(now_s):
                host = self.agents[effect.name].hello.host
                if isinstance(effect, Hung):
                    self.lose(effect.name, f"silent for {effect.silent_s:.1f} s", silent=True)
                else:
                    self.head.say(f"host {host} is silent for {effect.silent_s:.1f} s")
            if self._placed and not self.head.supervisor.stopping:
                self._give_back(now_s)

    def _give_back(self, now_s: float) -> None:
        """Send away who came for elastic members and has had none for long: they were given up."""
        for name, agent in list(self.agents.items()):
            if not agent.hello.elastic or agent.leaving or self.launcher.on(name):
                agent.idle_since_s = None
                continue
            since_s = agent.idle_since_s = agent.idle_since_s or now_s
            if now_s - since_s > self.config.idle_s:
                why = f"it has had nothing to do for {now_s - since_s:.0f} s"
                self.head.say(f"{agent.hello.host} is given back: {why}")
                self.placement.remove(agent.hello.host)
                self._send_away(name, EXIT_NEVER, why)

    def gone(self, slot: str, why: str) -> bool:
        """Hear of a broken link; True if it was an agent's."""
        if slot in self.agents:
            self.lose(slot, why)
        elif slot in self._sent_away:
            self._cut(slot, why)
        else:
            return False
        return True

    def lose(self, name: str, why: str, *, silent: bool = False) -> None:
        """A host is lost with all that lived there."""
        host = self.agents[name].hello.host
        self.placement.remove(host)
        ended = self.launcher.on(name)
        left = self.agents[name].leaving
        if silent:  # should it be there still, it hears this when the link heals
            self._send_away(name, EXIT_FENCED, f"the head has given this host up: {why}")
        else:
            self._forget(name)
            self._cut(name, why)
        if not self.head.supervisor.stopping:
            with_it = f"; with it {', '.join(sorted(ended))}" if ended else ""
            self.head.say(f"host {host} {'has left' if left else 'is lost'}: {why}{with_it}")
        for slot in ended:
            self.launcher.left(slot, f"its host {host} is lost ({why})")

    def exclude(self, name: str, why: str) -> None:
        """Leave out a host that is not fit."""
        self.head.say(f"excluded {self.agents[name].hello.host}: {why}")
        self._send_away(name, EXIT_NEVER, f"this host is excluded: {why}")

    def send_round(self, name: str, way: str) -> None:
        """Have an agent come again, by another of our addresses."""
        self.port.tell(ComeBy(way), to=member_of(name))
        self._forget(name)
        self._sent_away.add(name)

    def _send_away(self, name: str, code: int, why: str) -> None:
        """Fence an agent: nothing that it says counts any more, and it is told to end."""
        self.port.tell(Go(code, why), to=member_of(name))
        self._forget(name)
        self._sent_away.add(name)

    def _forget(self, name: str) -> None:
        agent = self.agents.pop(name)
        if self._by_host.get(agent.hello.host) == name:
            del self._by_host[agent.hello.host]
        self._beats.forget(name)

    def _cut(self, name: str, why: str) -> None:
        """Close the link to an agent for good."""
        self._sent_away.discard(name)
        self.port.peer_down(member_of(name))
        self.node.peer_down(name, why)


def make_hosts(node: Node, plan: Plan, nonce: str, wanted: Wanted) -> Hosts:
    """Put the actor into the head's node."""
    config = HostsConfig(
        lost_after_s=float(plan.run["host_lost"]),
        lease_s=float(plan.run["host_lease"]),
        idle_s=float(plan.run.get("host_idle", HostsConfig().idle_s)),
        gather_s=float(plan.run["gather"]),
    )
    cell = node.add(Hosts, parse_address(HOSTS), config)
    hosts = cell.actor
    assert isinstance(hosts, Hosts)
    hosts.prepare(node, plan, node.run_info.folder, nonce, wanted)
    return hosts
