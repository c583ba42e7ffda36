"""The hosts of an allocation: one agent on each node, started by one srun for each kind
of nodes.

Knows nothing of slots. Called by `job.py`; `launch/fleet.py` has the same for one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
import time
from pathlib import Path

from realnet.launch.addresses import address_on, address_towards, addresses_to_try
from realnet.launch.fleet import num_agents
from realnet.launch.rendezvous import HeadFile, write_head
from realnet.launch.wanted import Wanted
from realnet.slurm.commands import address_of
from realnet.slurm.records import Submission
from realnet.slurm.script import in_a_pattern, node_script_path, python_words, site_of
from realnet.slurm.site import Site, for_pool
from realnet.topology.plan import Plan

STOP_S = 8.0


class SlurmFleet:
    """The nodes of this job, by kind: those of each part of it."""

    def __init__(self, folder: Path, asked: Submission, nodes: list[list[str]], own: str):
        kinds, everywhere = asked.kinds(), [n for part in nodes for n in part]
        self._sites = [for_pool(site_of(asked), part.pool) for part in kinds]
        self.nonce = secrets.token_hex(16)
        num_spares = min(asked.spares, max(0, len(everywhere) - asked.nodes))
        pools = {part.pool: part.nodes for part in asked.parts}
        self.wanted = Wanted(asked.nodes, num_spares, tuple(everywhere), pools)
        self.address = _own_address(self._sites[0], everywhere, own)
        self.others = addresses_to_try(self.address)
        self._folder, self._asked, self._nodes, self._kinds = folder, asked, nodes, kinds
        self._sruns: list[subprocess.Popen[bytes]] = []

    def num_agents(self, plan: Plan) -> int:
        """How many agents may ever come."""
        return num_agents(self.wanted, plan)

    async def start(self, head: HeadFile) -> None:
        """Say where the head is, and start the agents."""
        write_head(self._folder, head)
        self._start(head.attempt)

    def _start(self, attempt: int) -> None:
        first = 0
        for at, nodes in enumerate(self._nodes):
            # A session of its own: what signals this process must not end all agents at once.
            words = self._srun_words(at, first, attempt)
            srun = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
            self._sruns.append(srun)
            first += len(nodes)

    def _srun_words(self, at: int, first: int, attempt: int) -> list[str]:
        """Return the command that starts the agents of one part, numbered from `first`."""
        part, site, num = self._kinds[at], self._sites[at], len(self._nodes[at])
        logs = in_a_pattern(self._folder / "attempts" / str(attempt) / "logs")
        log = f"{logs}/agent-%N.log"
        several = len(self._kinds) > 1
        cpus = _cpus_of(at if several else None)
        gpus = (
            f"--gres=gpu:{part.gpus}" if site.gpus_as == "gres" else f"--gpus-per-node={part.gpus}"
        )
        return [
            *("srun", f"--nodes={num}", f"--ntasks={num}", "--ntasks-per-node=1"),
            *([f"--het-group={at}", gpus] if several else []),
            *("--kill-on-bad-exit=0", "--no-kill", "--export=ALL", "--quit-on-interrupt"),
            *("--open-mode=append", f"--output={log}", f"--error={log}", "--overlap"),
            *([f"--cpus-per-task={cpus}"] if cpus else []),
            # A whole node is ours: its processes go where the kernel puts them, near their memory.
            *(["--cpu-bind=none"] if site.exclusive else []),
            *(["bash", str(node_script_path(self._folder, part.pool))] if at else []),
            *site.wrap,
            *python_words(site, self._asked.python),
            *("-P", "-m", "realnet.slurm.task", str(self._folder), "--first", str(first)),
            *("--attempt", str(attempt), "--wait", "60"),
            *(["--pool", part.pool] if part.pool else []),
        ]

    async def stop(self) -> None:
        """Wait for srun, not for long: it also waits for nodes that are gone."""
        until_s = time.monotonic() + STOP_S
        while any(s.poll() is None for s in self._sruns):
            if time.monotonic() > until_s:
                break
            await asyncio.sleep(0.02)
        for srun in self._sruns:
            with contextlib.suppress(ProcessLookupError):
                srun.send_signal(signal.SIGKILL)
            srun.wait()


def _cpus_of(part: int | None) -> str:
    """Return how many cores the agents of a part get: srun does not take it from the job."""
    group = "" if part is None else f"_HET_GROUP_{part}"
    told = os.environ.get(f"SLURM_CPUS_PER_TASK{group}")
    if told or part is None:
        return told or os.environ.get("SLURM_CPUS_ON_NODE", "")
    each = re.findall(r"(\d+)(?:\(x\d+\))?", os.environ.get(f"SLURM_JOB_CPUS_PER_NODE{group}", ""))
    return str(min(map(int, each))) if each else ""


def _own_address(site: Site, nodes: list[str], own: str) -> str:
    if site.interface:
        return address_on(site.interface)
    other = next((n for n in nodes if n != own), own)
    return address_towards(address_of(other))
