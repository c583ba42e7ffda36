"""SLURM's commands: called with a time limit, their answers read.

Formats are given (`-o`), since --json differs from version to version; sacct is not needed. A
controller that does not answer is "unknown", never "gone". Knows nothing of runs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from realnet.errors import RealnetError

LIMIT_S = 30.0
_SHIELD = ("sh", "-c", "trap '' TERM; exec \"$@\"", "sh")
_FAILED = ("BOOT_FAIL", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
ENDED = frozenset(("CANCELLED", "COMPLETED", "PREEMPTED", *_FAILED))


class UnansweredError(RealnetError):
    """A command has not ended in its time: what it was to do may have been done, or not."""


class Shape(NamedTuple):
    """How many nodes there are that have at least this."""

    nodes: int
    cpus: int
    gpus: int
    memory_bytes: int


def call(
    words: Sequence[str], *, text: str = "", limit_s: float = LIMIT_S, shielded: bool = False
) -> str:
    """Run a command and return what it says. Raises RealnetError with what it complained of.

    `shielded`: it goes on when SLURM ends the job that it is called in.
    """
    if shutil.which(words[0]) is None:
        raise RealnetError(
            f"there is no {words[0]} on this machine: submit from a login node, or look at what "
            "would be submitted with --dry-run"
        )
    try:
        run = [*_SHIELD, *words] if shielded else words
        told = subprocess.run(run, input=text, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise UnansweredError(
            f"{words[0]} has not answered in {limit_s:g} s, and may still do as it was told: look "
            "with squeue --me"
        ) from None
    if told.returncode:
        said = told.stderr.strip() or told.stdout.strip()
        raise RealnetError(f"{' '.join(words[:2])}: {said}")
    return told.stdout.strip()


def states(jobs: Sequence[int]) -> dict[int, set[str]]:
    """Return the states of jobs, of all elements of an array together. Raises RealnetError."""
    found: dict[int, set[str]] = {}
    if jobs:
        listed = call(["squeue", "-h", "-t", "all", "-o", "%A|%F|%T"])
        for line in listed.splitlines():
            own, array, state = line.split("|")
            for number in {int(own), int(array)} & set(jobs):
                found.setdefault(number, set()).add(state)
    return found


def running(jobs: Sequence[int]) -> list[int]:
    """Return those jobs that wait or run."""
    return [j for j, told in states(jobs).items() if told - ENDED]


def state_of(job: int) -> tuple[str, str]:
    """Return the state of a job and, if it is not the usual one, why it is in that state.

    Raises RealnetError.
    """
    told = call(["squeue", "-h", "-t", "all", "-j", str(job), "-o", "%T|%r"], limit_s=10.0)
    state, _, why = (told.splitlines() or ["not known to SLURM any more|"])[0].partition("|")
    return state, "" if why == "None" else why


def shapes_of(partition: str) -> list[Shape]:
    """Return what the nodes of a partition (empty: the default) have, each kind of them once.

    Raises RealnetError naming the partitions that there are.
    """
    listed = call(["sinfo", "-h", "-e", "-o", "%R|%P|%D|%c|%m|%G"])
    rows = [line.split("|") for line in listed.splitlines()]
    own = [r for r in rows if (r[0] == partition if partition else r[1].endswith("*"))]
    if not own:
        names = ", ".join(sorted({r[0] for r in rows}))
        which = f"partition {partition!r}" if partition else "default partition"
        raise RealnetError(f"this cluster has no {which}; it has: {names}")
    return [
        Shape(int(r[2]), int(r[3].rstrip("+")), _gpus(r[5]), int(r[4].rstrip("+")) << 20)
        for r in own
    ]


def _gpus(gres: str) -> int:
    return sum(int(m[1]) for m in re.finditer(r"gpu(?::[^:,()]+)?:(\d+)", gres))


def host_names(listed: str) -> list[str]:
    """Return the nodes of a list like "node[1-3]"."""
    return call(["scontrol", "show", "hostnames", listed]).split()


def seconds_left(job: str) -> float | None:
    """Return how long a job may still run; None when there is no limit, or nobody says."""
    try:
        told = call(["squeue", "-h", "-j", job, "-o", "%L"], limit_s=10.0)
    except RealnetError:
        return None
    return read_time(told)


def read_time(text: str) -> float | None:
    """Return the seconds in "1-02:03:04", "03:04" or "4"; None for other words."""
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(p) for p in rest.split(":")]
        seconds = 0
        for part in parts:
            seconds = seconds * 60 + part
        return seconds + 86400 * int(days) if dash else float(seconds)
    except ValueError:
        return None


def address_of(node: str) -> str:
    """Return by what the cluster reaches a node. Raises RealnetError."""
    told = call(["scontrol", "show", "node", node])
    found = re.search(r"NodeAddr=(\S+)", told)
    return found[1] if found else node


def restarts(job: str) -> tuple[str, int]:
    """Return the state of a job, and how often it was started again. Raises RealnetError."""
    told = call(["scontrol", "show", "job", job], limit_s=10.0)
    state, count = re.search(r"JobState=(\S+)", told), re.search(r"Restarts=(\d+)", told)
    return (state[1] if state else "UNKNOWN"), int(count[1]) if count else 0
