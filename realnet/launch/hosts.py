"""The hosts of a run, as its head sees them: agents come, are given slots, and are missed.

An actor beside the head. To the head it is a `Launcher`: what the head starts and kills goes to
the agent of the host where the slot has its place. Agents say hello, beat and tell of ends; one
that is silent for `lost_after_s` is lost with its host, and all that lived there. It is fenced:
nothing that it says counts any more, it is told to end when it can be told, and its lease ends it.

Knows nothing of what roles do, nor how agents are started. Used by `run.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from realnet.actor import Actor
from realnet.address import parse_address
from realnet.config import Config
from realnet.control import Peer, member_of
from realnet.errors import AskError, RealnetError
from realnet.launch import Exited, stacks_folder, stacks_path
from realnet.launch.fitness import best_way, unfit_alone, unfit_together
from realnet.launch.records import (
    HOSTS,
    AgentBeat,
    ComeBy,
    DumpSlot,
    Go,
    HeadBeat,
    Hello,
    KillSlot,
    Leaving,
    Left,
    OpenHostArena,
    Reach,
    SlotEnded,
    SlotStarted,
    StartSlot,
    Welcome,
)
from realnet.launch.rendezvous import prefer, read_head
from realnet.launch.wanted import Wanted
from realnet.live import LiveAsk
from realnet.liveness import Beats, Hung
from realnet.node import Node
from realnet.ports import Ask, handles
from realnet.roster import Status
from realnet.serving import caller
from realnet.supervision import Supervisor
from realnet.topology.placement import Host, Placement
from realnet.topology.plan import Plan

AWAY_S = 0.5
AGAIN_S = 15.0  # for those who are to come by another way
EXIT_FENCED, EXIT_NEVER = 76, 93


class HostsConfig(Config):
    """How patient the head is with hosts, and agents with the head."""

    lost_after_s: float = 4.0
    lease_s: float = 6.0
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


class _Agent:
    """One agent that is there."""

    def __init__(self, hello: Hello):
        self.hello = hello
        self.come = False  # it has heard our answer: both reach each other
        self.leaving = ""


class _Running(NamedTuple):
    """One process that an agent was told to start."""

    incarnation: int
    agent: str
    exited: Exited


class Hosts(Actor[HostsConfig]):
    """The agents of a run, and the launcher that speaks to them."""

    agents = Ask(OpenHostArena, Reach)

    def prepare(self, node: Node, plan: Plan, folder: Path, nonce: str, wanted: Wanted) -> None:
        """Hand in what it works with, before `open`."""
        self.node, self.plan, self.folder, self.nonce = node, plan, folder, nonce
        self.wanted = wanted
        self.attempt = node.run_info.attempt
        self.placement = Placement(plan)
        self.beats = Beats(self.config.lost_after_s / 2, self.config.lost_after_s)
        self.notes: list[str] = []  # of the gathering: what became of each host
        self.placed = False
        self._agents: dict[str, _Agent] = {}
        self._sent_away: set[str] = set()
        self._by_host: dict[str, str] = {}
        self._running: dict[str, _Running] = {}
        self._slots = {s.name: s for s in plan.slots}
        self._meets: dict[tuple[str, int], str] = {}
        self._came = asyncio.Event()
        port = node.cells[self.address.full].ports["agents"]
        assert isinstance(port, LiveAsk)
        self._port = port

    def open(self, head: Head) -> None:
        """Begin to listen for agents."""
        self.head = head
        self.spawn(self._tick(), name="hosts")

    # ------------------------------------------------------------ the beginning

    async def gather(self) -> None:
        """Wait for the hosts that are wanted and give every slot its place.

        Raises RealnetError naming the hosts that are missing, unfit, or too small.
        """
        wanted = self.wanted.num_hosts + self.wanted.num_spares
        start_s = self.clock.now()
        await self._until_come(wanted, self.config.gather_s)
        moved = self._choose_way()
        if moved:
            await self._until_come(self._num_come() + moved, AGAIN_S)
        came_s = self.clock.now() - start_s
        self.head.began("agents")
        for name in [a for a, agent in self._agents.items() if not agent.come]:
            self._lose(name, "it does not hear the head")
        await self._look_at_all()
        fit = [_host(self._agents[a].hello) for a in self._in_order()]
        lacks = self.wanted.lacks(fit)
        if lacks:
            why = "; ".join([*self.notes, *self._missing()])
            raise RealnetError(f"{lacks} are fit after {self.config.gather_s:g} s at most. {why}")
        for text in self._missing():
            self.head.say(text)
        looked_s = self.clock.now() - start_s - came_s
        self.head.began("preflight")
        self.head.say(
            f"{len(fit)} hosts have come in {came_s:.1f} s, and are fit (looked at in "
            f"{looked_s:.1f} s)"
        )
        for host in self.wanted.shared_out(fit, self.plan.pools):
            self.placement.add(host)
        left = self.placement.place_all()
        if left:
            raise RealnetError(self.placement.complaint(left))
        self.placed = True

    async def _until_come(self, num: int, limit_s: float) -> None:
        until_s = self.clock.now() + limit_s
        while self._num_come() < num and self.clock.now() < until_s:
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), max(0.01, until_s - self.clock.now()))

    def _choose_way(self) -> int:
        """Have those who can, and have not, come by the address of ours that most can use; return
        how many these are. Who comes later takes that first.
        """
        known = read_head(self.folder, self.attempt)
        come = {name: agent for name, agent in self._agents.items() if agent.come}
        order = [way.endpoint for way in known.ways] if known is not None else []
        best = best_way([agent.hello for agent in come.values()], order)
        movers = [
            n for n, a in come.items() if best and a.hello.way != best and best in a.hello.ways
        ]
        if best and best != order[0]:
            prefer(self.folder, self.attempt, best)
            self.head.say(f"most hosts reach the head at {best}, not at {order[0]}")
        for name in movers:
            self._port.tell(ComeBy(best), to=member_of(name))
            self._forget(name)
            self._sent_away.add(name)
        return len(movers)

    def _num_come(self) -> int:
        return sum(agent.come for agent in self._agents.values())

    def _in_order(self) -> list[str]:
        """The agents of the run's own hosts by number: the order of places."""
        own = [a for a, agent in self._agents.items() if agent.come and not agent.hello.elastic]
        return sorted(own, key=lambda a: int(a.partition("~")[0].rpartition("/")[2]))

    def _missing(self) -> list[str]:
        come = {a.hello.host for a in self._agents.values() if a.come}
        lost = sorted(set(self.wanted.names) - come)
        lost = [h for h in lost if not any(line.startswith(f"{h}: ") for line in self.notes)]
        return [
            f"{host} has not come: is {self.folder} there, and does it reach the head?"
            for host in lost
        ]

    async def _look_at_all(self) -> None:
        """Exclude hosts that are unfit, by what they found themselves and by who reaches whom."""
        for name, agent in list(self._agents.items()):
            why = unfit_alone(agent.hello)
            if why:
                self._exclude(name, why)
        hellos = {name: agent.hello for name, agent in self._agents.items()}
        where = {name: hello.probe for name, hello in hellos.items()}
        told = await asyncio.gather(*(self._reach(a, where) for a in hellos))
        there = [name for name in hellos if name in self._agents]  # one may be lost meanwhile
        by_name = {n: t for n, t in zip(hellos, told, strict=True) if n in there}
        for name, why in unfit_together({n: hellos[n] for n in there}, by_name).items():
            self._exclude(name, why)

    async def _reach(self, agent: str, where: Mapping[str, str]) -> dict[str, bool]:
        try:
            request = Reach(tuple(where.values()), 2.0)
            told = await self.agents(request, deadline_s=15.0, to=member_of(agent))
        except AskError:
            return {}
        return dict(zip(where, told.well, strict=True))

    def _exclude(self, name: str, why: str) -> None:
        agent = self._agents[name]
        text = f"{agent.hello.host}: {why}"
        self.notes.append(text)
        self.head.say(f"excluded {text}")
        self._send_away(name, EXIT_NEVER, f"this host is excluded: {why}")

    # ------------------------------------------------------------ as a launcher

    def spawn_slot(self, slot: str, incarnation: int, exited: Exited) -> None:
        """Have the agent of its host start a slot that has a place."""
        place = self.placement.places[slot]
        agent = self._by_host[place.host]
        self._running[slot] = _Running(incarnation, agent, exited)
        planned = self._slots[slot]
        meet = self._meets.get((planned.gang, incarnation), "") if planned.gang else ""
        if planned.rank and not meet:
            return  # it is started when its leader's host has said where they meet
        order = StartSlot(slot, incarnation, place.gpus, meet)
        self._port.tell(order, to=member_of(agent))

    def kill(self, slot: str) -> None:
        """End a process at once."""
        running = self._running.get(slot)
        if running is not None:
            order = KillSlot(slot, running.incarnation)
            self._port.tell(order, to=member_of(running.agent))

    def dump(self, slot: str) -> str:
        """Make a process write its stacks, in the run's folder."""
        running = self._running.get(slot)
        if running is None:
            return ""
        self._port.tell(DumpSlot(slot), to=member_of(running.agent))
        return str(stacks_path(stacks_folder(self.folder, self.attempt), slot))

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
        return (await self.agents(request, deadline_s=60.0, to=to)).path

    def host_of(self, slot: str) -> str:
        """Return the name of the host of a slot, or ""."""
        place = self.placement.places.get(slot)
        return place.host if place is not None else ""

    async def let_go(self, why: str, *, limit_s: float = 3.0) -> None:
        """End all agents and wait for them, not for long. For them it is an end in order."""
        for name in self._agents:
            self._port.tell(Go(0, why), to=member_of(name))
        until_s = self.clock.now() + limit_s
        while self._agents and self.clock.now() < until_s:
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
        if host in self._by_host:
            self._lose(self._by_host[host], "another agent has come for it")
        for known in [a for a in self._agents if a.partition("~")[0] == name]:
            self._lose(known, "it has started again")
        for known in [a for a in self._sent_away if a.partition("~")[0] == name]:
            self._cut(known, "it has started again")
        offset_s = time.time() - request.wall_s if request.wall_s else 0.0
        hello = _with_offset(request, offset_s)
        self.node.connect(Peer(request.slot, request.endpoint, (member_of(request.slot),)))
        self._port.peer_up(member_of(request.slot), "")
        self._agents[request.slot] = _Agent(hello)
        self._by_host[host] = request.slot
        self.beats.watch(request.slot, self.clock.now())
        return welcome

    def _has_come(self, name: str, agent: _Agent) -> None:
        """An agent has heard our answer. One that came later is looked at, then used."""
        agent.come = True
        self._came.set()
        if not self.placed:
            return
        hello = agent.hello
        self.head.say(f"{hello.host} has come" + f" for {hello.elastic}" * bool(hello.elastic))
        why = unfit_alone(hello)
        if why:
            self._exclude(name, why)
            return
        self.placement.add(_host(hello))
        self._fill()

    def _fill(self) -> None:
        """Start what had no place and has one now."""
        for slot in self.head.supervisor.slots.values():
            if slot.state in ("absent", "dropped") and self.placement.place(slot.name):
                self.head.invite(slot.name)

    @handles
    async def beat(self, record: AgentBeat) -> None:
        """An agent is alive."""
        agent = self._agents.get(record.slot)
        if agent is None or not self._speaks_for(record.slot):
            return
        if not agent.come:
            self._has_come(record.slot, agent)
        for recovered in self.beats.beat(record.slot, self.clock.now()):
            self.head.say(f"{agent.hello.host} answers again after {recovered.silent_s:.1f} s")

    @handles
    async def started(self, record: SlotStarted) -> None:
        """A process is there."""
        running = self._running.get(record.slot)
        if running is None or running.incarnation != record.incarnation:
            return
        if not self._speaks_for(running.agent):
            return
        self.head.status[record.slot].pid = record.pid
        gang, life = self._slots[record.slot].gang, record.incarnation
        if gang and record.meet and (gang, life) not in self._meets:
            self._meets = {k: v for k, v in self._meets.items() if k[0] != gang}
            self._meets[gang, life] = record.meet
            for other, waits in list(self._running.items()):
                planned = self._slots[other]
                if planned.gang == gang and planned.rank and waits.incarnation == life:
                    self.spawn_slot(other, life, waits.exited)

    @handles
    async def slot_ended(self, record: SlotEnded) -> None:
        """A process has ended."""
        running = self._running.get(record.slot)
        if running is None or running.incarnation != record.incarnation:
            return
        if not self._speaks_for(running.agent):
            return
        del self._running[record.slot]
        agent = self._agents.get(running.agent)
        if agent is not None and agent.leaving:
            self.placement.free(record.slot)
            nowhere = self._slots[record.slot].elastic
            running.exited(f"left with {agent.hello.host}", lost=True, nowhere=nowhere)
        else:
            running.exited(record.how, record.refused)

    @handles
    async def agent_leaves(self, record: Leaving) -> None:
        """A host is being taken away: what is there ends in order."""
        agent = self._agents.get(record.slot)
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
        if record.slot in self._agents:
            self._lose(record.slot, record.why)
        elif record.slot in self._sent_away:
            self._cut(record.slot, record.why)

    async def _let_leave(self, name: str) -> None:
        agent = self._agents[name]
        slots = [s for s, r in self._running.items() if r.agent == name]
        until_s = self.clock.now() + 8.0
        await asyncio.gather(*(self.head.retire(s, until_s) for s in slots))
        while any(r.agent == name for r in self._running.values()) and self.clock.now() < until_s:
            await self.clock.sleep(0.05)
        if name in self._agents:
            self._port.tell(Go(0, agent.leaving), to=member_of(name))

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
            for name in self._agents:
                self._port.tell(HeadBeat(self.attempt), to=member_of(name))
            if now_s - due_s > AWAY_S:
                self.beats.away(now_s - due_s, now_s)
            for effect in self.beats.tick(now_s):
                host = self._agents[effect.name].hello.host
                if isinstance(effect, Hung):
                    self._lose(effect.name, f"silent for {effect.silent_s:.1f} s", silent=True)
                else:
                    self.head.say(f"host {host} is silent for {effect.silent_s:.1f} s")

    def gone(self, slot: str, why: str) -> bool:
        """Hear of a broken link; True if it was an agent's."""
        if slot in self._agents:
            self._lose(slot, why)
        elif slot in self._sent_away:
            self._cut(slot, why)
        else:
            return False
        return True

    def _lose(self, name: str, why: str, *, silent: bool = False) -> None:
        """A host is lost with all that lived there."""
        host = self._agents[name].hello.host
        self.placement.remove(host)
        ended = {s: r for s, r in self._running.items() if r.agent == name}
        left = self._agents[name].leaving
        if silent:  # should it be there still, it hears this when the link heals
            self._send_away(name, EXIT_FENCED, f"the head has given this host up: {why}")
        else:
            self._forget(name)
            self._cut(name, why)
        if not self.head.supervisor.stopping:
            with_it = f"; with it {', '.join(sorted(ended))}" if ended else ""
            self.head.say(f"host {host} {'has left' if left else 'is lost'}: {why}{with_it}")
        for slot, running in ended.items():
            del self._running[slot]
            nowhere = self._slots[slot].elastic
            running.exited(f"its host {host} is lost ({why})", lost=True, nowhere=nowhere)

    def _send_away(self, name: str, code: int, why: str) -> None:
        """Fence an agent: nothing that it says counts any more, and it is told to end."""
        self._port.tell(Go(code, why), to=member_of(name))
        self._forget(name)
        self._sent_away.add(name)

    def _forget(self, name: str) -> None:
        agent = self._agents.pop(name)
        if self._by_host.get(agent.hello.host) == name:
            del self._by_host[agent.hello.host]
        self.beats.forget(name)

    def _cut(self, name: str, why: str) -> None:
        """Close the link to an agent for good."""
        self._sent_away.discard(name)
        self._port.peer_down(member_of(name))
        self.node.peer_down(name, why)


class HostLauncher:
    """Hands what the head starts and ends to the agents of its hosts (`Launcher`)."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        self.kill, self.dump, self.alive = hosts.kill, hosts.dump, hosts.alive
        self.open_arena = hosts.open_arena

    def spawn(self, slot: str, incarnation: int, exited: Exited) -> int:
        """Have a process started; its pid is known later."""
        hosts = self.hosts
        if not hosts.placement.place(slot):
            text = hosts.placement.complaint([slot])
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: exited(text, lost=True, nowhere=True))
        else:
            hosts.spawn_slot(slot, incarnation, exited)
        return 0


def make_hosts(node: Node, plan: Plan, nonce: str, wanted: Wanted) -> Hosts:
    """Put the actor into the head's node."""
    config = HostsConfig(
        lost_after_s=float(plan.run["host_lost"]),
        lease_s=float(plan.run["host_lease"]),
        gather_s=float(plan.run["gather"]),
    )
    cell = node.add(Hosts, parse_address(HOSTS), config)
    hosts = cell.actor
    assert isinstance(hosts, Hosts)
    hosts.prepare(node, plan, node.run_info.folder, nonce, wanted)
    return hosts


def _with_offset(hello: Hello, offset_s: float) -> Hello:
    """`wall_s` as the difference of the clocks, which is what is looked at."""
    return msgspec.structs.replace(hello, wall_s=offset_s)


def _host(hello: Hello) -> Host:
    return Host(
        *(hello.host, hello.cpus, len(hello.gpus), hello.memory_bytes, hello.pool),
        elastic=hello.elastic,
    )
