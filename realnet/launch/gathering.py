"""The beginning of a run over several hosts: they come, are looked at, and every slot gets a place.

The head waits for the hosts that are wanted, has them come by the address of its own that most can
use, has them try to reach each other, and leaves out those that are not fit. What became of each
host is kept for the message, should they be too few.

Those who come for elastic members only are not waited for, nor looked at here: they may come at
any time, also before the others. Knows nothing of processes, nor of hosts that are lost later.
Called by `hosts.py`, once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from realnet.actor import Clock
from realnet.control import member_of
from realnet.errors import AskError, RealnetError
from realnet.launch.fitness import best_way, unfit_alone, unfit_together
from realnet.launch.records import Hello, Reach
from realnet.launch.rendezvous import prefer, read_head
from realnet.launch.wanted import Wanted
from realnet.live import LiveAsk
from realnet.topology.placement import Host, Placement
from realnet.topology.plan import Plan

AGAIN_S = 15.0  # for those who are to come by another way
REACH_S, REACHED_S = 2.0, 15.0  # for one connection; for an agent to tell of all of them


class Agent:
    """One agent that is there."""

    def __init__(self, hello: Hello):
        self.hello = hello
        self.come = False  # it has heard our answer: both reach each other
        self.leaving = ""
        self.idle_since_s: float | None = None


class Head(Protocol):
    """What is needed of the head."""

    def say(self, text: str) -> None: ...
    def began(self, part: str) -> None: ...


class Hosts(Protocol):
    """What is needed of those who know the agents."""

    clock: Clock
    agents: dict[str, Agent]
    came: asyncio.Event
    placement: Placement

    @property
    def port(self) -> LiveAsk: ...
    @property
    def head(self) -> Head: ...
    def lose(self, name: str, why: str) -> None: ...
    def exclude(self, name: str, why: str) -> None: ...
    def send_round(self, name: str, way: str) -> None: ...


class Gathering:
    """How a run gets its hosts."""

    def __init__(self, hosts: Hosts, plan: Plan, folder: Path, attempt: int, wanted: Wanted):
        self._hosts, self._plan, self._wanted = hosts, plan, wanted
        self._folder, self._attempt = folder, attempt
        self.notes: list[str] = []  # what became of hosts that are left out

    async def run(self, limit_s: float) -> None:
        """Wait for the hosts that are wanted and give every slot its place.

        Raises RealnetError naming the hosts that are missing, unfit, or too small.
        """
        hosts, head = self._hosts, self._hosts.head
        start_s = hosts.clock.now()
        await self._until_come(self._wanted.num_hosts + self._wanted.num_spares, limit_s)
        moved = self._choose_way()
        if moved:
            await self._until_come(self._num_come() + moved, AGAIN_S)
        came_s = hosts.clock.now() - start_s
        head.began("agents")
        for name in [a for a, agent in self._own().items() if not agent.come]:
            hosts.lose(name, "it does not hear the head")
        await self._look_at_all()
        fit = [host_of(agent.hello) for agent in self._in_order()]
        lacks = self._wanted.lacks(fit)
        if lacks:
            why = "; ".join([*self.notes, *self._missing()])
            raise RealnetError(f"{lacks} are fit after {limit_s:g} s at most. {why}")
        for text in self._missing():
            head.say(text)
        looked_s = hosts.clock.now() - start_s - came_s
        head.began("preflight")
        head.say(
            f"{len(fit)} hosts have come in {came_s:.1f} s, and are fit (looked at in "
            f"{looked_s:.1f} s)"
        )
        for host in self._wanted.shared_out(fit, self._plan.pools):
            hosts.placement.add(host)
        left = hosts.placement.place_all()
        if left:
            raise RealnetError(hosts.placement.complaint(left))

    async def _until_come(self, num: int, limit_s: float) -> None:
        clock, came = self._hosts.clock, self._hosts.came
        until_s = clock.now() + limit_s
        while self._num_come() < num and clock.now() < until_s:
            came.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(came.wait(), max(0.01, until_s - clock.now()))

    def _choose_way(self) -> int:
        """Have those who can, and have not, come by the address of ours that most can use; return
        how many these are. Who comes later takes that first.
        """
        known = read_head(self._folder, self._attempt)
        come = {name: agent for name, agent in self._own().items() if agent.come}
        order = [way.endpoint for way in known.ways] if known is not None else []
        best = best_way([agent.hello for agent in come.values()], order)
        movers = [
            n for n, a in come.items() if best and a.hello.way != best and best in a.hello.ways
        ]
        if best and best != order[0]:
            prefer(self._folder, self._attempt, best)
            self._hosts.head.say(f"most hosts reach the head at {best}, not at {order[0]}")
        for name in movers:
            self._hosts.send_round(name, best)
        return len(movers)

    def _num_come(self) -> int:
        return sum(agent.come for agent in self._own().values())

    def _own(self) -> dict[str, Agent]:
        """The agents of the run's own hosts."""
        return {n: a for n, a in self._hosts.agents.items() if not a.hello.elastic}

    def _in_order(self) -> list[Agent]:
        """Those that have come, by number: the order of places."""
        come = [(name, agent) for name, agent in self._own().items() if agent.come]
        come.sort(key=lambda one: int(one[0].partition("~")[0].rpartition("/")[2]))
        return [agent for _, agent in come]

    def _missing(self) -> list[str]:
        come = {a.hello.host for a in self._own().values() if a.come}
        lost = sorted(set(self._wanted.names) - come)
        lost = [h for h in lost if not any(line.startswith(f"{h}: ") for line in self.notes)]
        return [
            f"{host} has not come: is {self._folder} there, and does it reach the head?"
            for host in lost
        ]

    async def _look_at_all(self) -> None:
        """Exclude hosts that are unfit, by what they found themselves and by who reaches whom."""
        for name, agent in self._own().items():
            why = unfit_alone(agent.hello)
            if why:
                self._exclude(name, why)
        hellos = {name: agent.hello for name, agent in self._own().items()}
        where = {name: hello.probe for name, hello in hellos.items()}
        told = await asyncio.gather(*(self._reach(a, where) for a in hellos))
        there = [name for name in hellos if name in self._hosts.agents]  # one may be lost meanwhile
        by_name = {n: t for n, t in zip(hellos, told, strict=True) if n in there}
        for name, why in unfit_together({n: hellos[n] for n in there}, by_name).items():
            self._exclude(name, why)

    def _exclude(self, name: str, why: str) -> None:
        self.notes.append(f"{self._hosts.agents[name].hello.host}: {why}")
        self._hosts.exclude(name, why)

    async def _reach(self, agent: str, where: Mapping[str, str]) -> dict[str, bool]:
        try:
            request = Reach(tuple(where.values()), REACH_S)
            told = await self._hosts.port(request, deadline_s=REACHED_S, to=member_of(agent))
        except AskError:
            return {}
        return dict(zip(where, told.well, strict=True))


def host_of(hello: Hello) -> Host:
    """Return what an agent says of its host, as it is placed on."""
    return Host(
        *(hello.host, hello.cpus, len(hello.gpus), hello.memory_bytes, hello.pool),
        elastic=hello.elastic,
    )
