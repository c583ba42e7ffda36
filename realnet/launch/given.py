"""What this host gives to a run: GPUs, cores, memory, as SLURM or whoever started us says it.

Knows nothing of runs. Used by `agent.py`.
"""

from __future__ import annotations

import os


def visible_gpus(num: int = 0) -> tuple[str, ...]:
    """Return the names of the GPUs that SLURM, or whoever started us, gave this host.

    Where nobody says it, they are counted up to `num`.
    """
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        given = os.environ.get(name)
        if given is not None:
            return tuple(g.strip() for g in given.split(",") if g.strip() and g != "NoDevFiles")
    return tuple(str(at) for at in range(num))


def cores() -> int:
    """Return how many cores processes may use here."""
    told = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(told) if told.isdecimal() else len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Return how much memory processes may use here."""
    told = os.environ.get("SLURM_MEM_PER_NODE", "")
    if told.isdecimal() and int(told):
        return int(told) << 20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
