"""Where the agents of a run over several hosts come from: here, from this machine itself.

A `Fleet` says how many hosts there are to be, where the head listens, and starts the agents once
the head is there. `LocalFleet` starts N of them on this machine, as SLURM would start one on each
node, so that the same path is taken everywhere.

Knows nothing of slots. Used by `run.py`; SLURM's is in `slurm/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from realnet.actor import RunInfo
from realnet.launch.checks import code_digest
from realnet.launch.rendezvous import HeadFile, HeadWay, write_head
from realnet.launch.wanted import Wanted
from realnet.topology.plan import Plan

STOP_S = 8.0
SPARE_KEYS = 8


class Fleet(Protocol):
    """The hosts of a run."""

    address: str
    others: tuple[str, ...]  # more addresses on which the head listens for agents
    nonce: str
    wanted: Wanted

    def num_agents(self, plan: Plan) -> int:
        """How many agents may ever come: each has a key of its own."""

    async def start(self, head: HeadFile) -> None:
        """The head listens: say where, and start the agents."""

    async def stop(self) -> None:
        """The run has ended and every agent was told; end those that are left."""


def num_agents(wanted: Wanted, plan: Plan) -> int:
    """Return how many agents may come: the hosts, their spares, and those for elastic members."""
    elastic = sum(1 for s in plan.slots if s.elastic and not s.rank)
    return wanted.num_hosts + wanted.num_spares + elastic + SPARE_KEYS


def head_file(plan: Plan, info: RunInfo, ways: tuple[HeadWay, ...], nonce: str) -> HeadFile:
    """Return how the head of this process is found, by the first way or else another."""
    gpus = max((r.gpus for r in plan.roles.values()), default=0)
    return HeadFile(
        *(plan.name, info.attempt, ways[0].endpoint, nonce, plan.digest(), info.resumed),
        *(platform.node(), os.getpid(), time.time(), code_digest(), gpus),
        ways,
    )


class LocalFleet:
    """Agents on this machine, each as if it were a host of its own."""

    others: tuple[str, ...] = ()

    def __init__(
        self,
        folder: Path,
        num_hosts: int,
        num_spares: int = 0,
        address: str = "127.0.0.1",
        gpus: int = 0,
    ):
        names = tuple(f"local{n}" for n in range(num_hosts + num_spares))
        self.address, self.nonce = address, secrets.token_hex(16)
        self.wanted = Wanted(num_hosts, num_spares, names)
        self._folder, self._gpus = folder, gpus
        self._agents: list[subprocess.Popen[bytes]] = []

    def num_agents(self, plan: Plan) -> int:
        """How many agents may ever come."""
        return num_agents(self.wanted, plan)

    async def start(self, head: HeadFile) -> None:
        """Say where the head is, and start the agents."""
        write_head(self._folder, head)
        self._start(head)

    def _start(self, head: HeadFile) -> None:
        logs = self._folder / "attempts" / str(head.attempt) / "logs"
        for number, name in enumerate(self.wanted.names):
            with (logs / f"agent-{name}.log").open("ab") as log:
                self._agents.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-P", "-m", "realnet.launch.agent"),
                            *(str(self._folder), "--number", str(number), "--host", name),
                            *("--attempt", str(head.attempt), "--cpus", "0"),
                            *("--gpus", str(self._gpus), "--parent", str(os.getpid())),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    async def stop(self) -> None:
        """Wait for the agents, not for long."""
        until_s = time.monotonic() + STOP_S
        while any(a.poll() is None for a in self._agents):
            if time.monotonic() > until_s:
                break
            await asyncio.sleep(0.02)
        for agent in self._agents:
            with contextlib.suppress(ProcessLookupError):
                agent.send_signal(signal.SIGKILL)  # its processes die with it
            agent.wait()
