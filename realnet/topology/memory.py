"""What the processes of a plan take of the memory there is, and what does not fit.

Adds up what roles say they need; knows nothing of models. Called by `show.py`.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator

from realnet.actor import Need
from realnet.topology.plan import Plan, PoolPlan, SlotPlan

GIB = 2**30
MIB = 2**20


def size(num_bytes: int) -> str:
    """Return a size for people."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.0f} MiB"


def words_of(need: Need) -> Iterator[str]:
    """Tell what a process needs memory for, if its role says so."""
    if need.parts:
        parts = ", ".join(f"{what} {size(n)}" for what, n in need.parts.items() if n)
        where = f"{size(need.gpu_bytes)} of GPU memory; " if need.gpu_bytes else ""
        text = f"{where}{parts}"
        yield from textwrap.wrap(text, 92, initial_indent="  ", subsequent_indent="  ")
    if need.unknown:
        yield f"  {need.unknown}"


class Used:
    """Needs beside what there is."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._found: list[str] = []
        self._gpu: dict[str, int] = {}
        self._host = 0

    def add(self, slot: SlotPlan, need: Need) -> None:
        """Count a process."""
        role = self._plan.roles[slot.roles[0]]
        pool = self._plan.pools.get(role.pool) or PoolPlan("")
        self._host += 0 if pool.hosts or pool.nodes else need.host_bytes
        self._gpu[role.pool] = self._gpu.get(role.pool, 0) + need.gpu_bytes
        if role.memory_bytes and need.host_bytes > role.memory_bytes:
            self._lacks(f"{slot.name} needs {size(need.host_bytes)}", role.memory_bytes, "memory")
        if need.lacks:
            self._found.append(f"DOES NOT FIT: {slot.name}: {need.lacks}")
        have = pool.gpu_memory_bytes * max(role.gpus, 1)
        if pool.gpu_memory_bytes and need.gpu_bytes > have:
            self._lacks(f"{slot.name} needs {size(need.gpu_bytes)} of GPU memory", have, role.pool)

    def problems(self) -> Iterator[str]:
        """Tell what does not fit: processes, then pools, then this machine."""
        for name, need in self._gpu.items():
            pool = self._plan.pools.get(name) or PoolPlan("")
            hosts = max(len(pool.hosts), pool.nodes, 1)
            have = hosts * pool.gpus * pool.gpu_memory_bytes
            if have and need > have:
                self._lacks(f"pool {name} needs {size(need)} of GPU memory", have, name)
        here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self._host > here:
            self._lacks(f"this run needs {size(self._host)}", here, "this machine")
        yield from self._found

    def _lacks(self, what: str, have: int, where: str) -> None:
        self._found.append(f"DOES NOT FIT: {what}; {where} has {size(have)}")
