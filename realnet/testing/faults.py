"""What goes wrong, and when: a schedule of faults, for simulated runs and for real processes.

    faults = schedule(seed=7, slots=["worker/0", "worker/1"])
    await strike(faults, simulation)               # in a story, in virtual time
    await strike(faults, RealProcesses(folder))    # a run that goes on: kills and hangs, by signals

Equal seeds give equal schedules. Knows nothing of what the slots do. For users' tests; the
framework's own scenarios (`scenario.py`) are made of the same faults, and some that are planned
inside of handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from realnet import host
from realnet.errors import ConfigError
from realnet.observe.status import read_status

HEAD = "head"
OF_PROCESSES, OF_LINKS = ("kill", "hang"), ("cut", "slow", "sever")
SLOWER = 100.0


class Fault(NamedTuple):
    """One thing that goes wrong. `to` is the other end of a link; `value`: for how many seconds.

    kill: SIGKILL; hang: SIGSTOP, and SIGCONT after `value`; cut: what goes from `slot` to `to` is
    held until then; slow: it takes a hundred times as long; sever: the connection breaks, what is
    under way is lost, and it comes back.
    """

    at_s: float
    what: str
    slot: str
    to: str = ""
    value: float = 0.0


class Victim(Protocol):
    """What faults befall: `Simulation`, `RealProcesses`, `Running` (kills alone)."""

    def suffer(self, fault: Fault) -> None:
        """Let one fault happen now. Raises ConfigError for one that cannot."""


def schedule(
    seed: int,
    slots: Sequence[str],
    *,
    num: int = 10,
    from_s: float = 0.5,
    to_s: float = 5.0,
    kinds: Sequence[str] = (*OF_PROCESSES, *OF_LINKS),
) -> tuple[Fault, ...]:
    """Return `num` faults, drawn from a seed, in the order of their times."""
    rng = random.Random(f"faults {seed}")
    faults = []
    for _ in range(num):
        what, slot = rng.choice(list(kinds)), rng.choice(list(slots))
        ends = [other for other in (*slots, HEAD) if other != slot]
        to = rng.choice(ends) if what in OF_LINKS else ""
        value = 0.0 if what == "kill" else rng.choice((0.3, 1.0, 2.0))
        faults.append(Fault(rng.uniform(from_s, to_s), what, slot, to, value))
    return tuple(sorted(faults))


async def strike(faults: Sequence[Fault], victim: Victim) -> None:
    """Let each fault happen at its time, counted from now; return when the last one is over."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    for fault in sorted(faults):
        await asyncio.sleep(max(0.0, start_s + fault.at_s - loop.time()))
        victim.suffer(fault)
    over_s = start_s + max((f.at_s + f.value for f in faults), default=0.0)
    await asyncio.sleep(max(0.0, over_s - loop.time()))


class RealProcesses:
    """The processes of a run that goes on on this machine, by its folder; no others are touched."""

    def __init__(self, folder: str | Path):
        self._folder = Path(folder).resolve()

    def suffer(self, fault: Fault) -> None:
        """Signal a process, if it is there: between two lives there is nothing to kill."""
        if fault.what not in OF_PROCESSES:
            raise ConfigError(
                f"{fault.what!r} is for simulated runs: real processes can be {OF_PROCESSES}"
            )
        pid = self._pid(fault.slot)
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if fault.what == "kill" else signal.SIGSTOP)
        if fault.what == "hang":
            asyncio.get_running_loop().call_later(fault.value, self._wake, fault.slot, pid)

    def _wake(self, slot: str, pid: int) -> None:
        if self._pid(slot) == pid:  # else it was found hung, and another lives in its place
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _pid(self, slot: str) -> int:
        """Return the process of a slot, 0 if it has none now: what the run says may be old."""
        status = read_status(self._folder).slots.get(slot)
        words = host.command_of(status.pid).split() if status is not None else []
        ours = "realnet.member" in words and str(self._folder) in words and slot in words
        return status.pid if status is not None and ours else 0
