"""The hosts of an allocation: one agent on each node, started by one srun.

Knows nothing of slots. Called by `job.py`; `launch/fleet.py` has the same for one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from realnet.launch.addresses import address_on, address_towards, addresses_to_try
from realnet.launch.fleet import num_agents
from realnet.launch.hosts import Wanted
from realnet.launch.rendezvous import HeadFile, write_head
from realnet.slurm.commands import address_of
from realnet.slurm.records import Submission
from realnet.slurm.site import Site
from realnet.topology.plan import Plan

STOP_S = 8.0


class SlurmFleet:
    """The nodes of this job."""

    def __init__(self, folder: Path, asked: Submission, site: Site, nodes: list[str], own: str):
        self.nonce = secrets.token_hex(16)
        num_spares = min(asked.spares, max(0, len(nodes) - asked.nodes))
        self.wanted = Wanted(asked.nodes, num_spares, tuple(nodes))
        self.address = _own_address(site, nodes, own)
        self.others = addresses_to_try(self.address)
        self._folder, self._asked, self._site, self._nodes = folder, asked, site, nodes
        self._srun: subprocess.Popen[bytes] | None = None

    def num_agents(self, plan: Plan) -> int:
        """How many agents may ever come."""
        return num_agents(self.wanted, plan)

    async def start(self, head: HeadFile) -> None:
        """Say where the head is, and start the agents."""
        write_head(self._folder, head)
        self._start(head)

    def _start(self, head: HeadFile) -> None:
        num = len(self._nodes)
        log = self._folder / "attempts" / str(head.attempt) / "logs" / "agent-%N.log"
        cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
        words = [
            *("srun", f"--nodes={num}", f"--ntasks={num}", "--ntasks-per-node=1"),
            *("--kill-on-bad-exit=0", "--no-kill", "--export=ALL", "--quit-on-interrupt"),
            *("--open-mode=append", f"--output={log}", f"--error={log}", "--overlap"),
            *([f"--cpus-per-task={cpus}"] if cpus else []),
            *self._site.wrap,
            *(self._asked.python, "-P", "-m", "realnet.slurm.task", str(self._folder)),
            *("--attempt", str(head.attempt), "--wait", "60"),
        ]
        # A session of its own: what signals this process must not end all agents at once.
        self._srun = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)

    async def stop(self) -> None:
        """Wait for srun, not for long: it also waits for nodes that are gone."""
        srun, until_s = self._srun, time.monotonic() + STOP_S
        while srun is not None and srun.poll() is None:
            if time.monotonic() > until_s:
                with contextlib.suppress(ProcessLookupError):
                    srun.send_signal(signal.SIGKILL)
                srun.wait()
                return
            await asyncio.sleep(0.02)


def _own_address(site: Site, nodes: list[str], own: str) -> str:
    if site.interface:
        return address_on(site.interface)
    other = next((n for n in nodes if n != own), own)
    return address_towards(address_of(other))
