"""What SLURM does with the jobs of a run, for whoever asks from the login node.

By the numbers in the run's folder, never by name. Knows nothing of scripts. Called by `submit.py`
and by the verbs `top`, `why`, `ls` and `stop`.
"""

from __future__ import annotations

import time
from pathlib import Path

from realnet.errors import RealnetError, RunFolderError
from realnet.slurm import commands
from realnet.slurm.records import Job, read_jobs

ENDING_S, POLL_S = 60.0, 0.5


def live_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a run that wait or go on, oldest first. Raises RealnetError."""
    jobs = read_jobs(folder)
    going = commands.running([j.number for j in jobs])
    return [j for j in jobs if j.number in going]


def unended(folder: Path) -> list[tuple[int, bool]]:
    """Return the jobs of a run that have not ended, its own last, and whether each is ending.

    Raises RealnetError.
    """
    jobs = sorted(read_jobs(folder), key=lambda j: j.what == "run")
    told = commands.states([j.number for j in jobs])
    left = {j.number: told.get(j.number, set()) - commands.ENDED for j in jobs}
    return [(number, states == {"COMPLETING"}) for number, states in left.items() if states]


def going_on(folder: Path) -> int:
    """Return the job with which a run waits or goes on, 0 if there is none.

    One that is ending is waited for: SLURM says the same of it whether it comes to its end or
    begins another life. Raises RealnetError.
    """
    own = [j.number for j in read_jobs(folder) if j.what == "run"]
    until_s = time.monotonic() + ENDING_S
    while True:
        there = [(number, ending) for number, ending in unended(folder) if number in own]
        if not all(ending for _, ending in there) or time.monotonic() > until_s or not there:
            return there[-1][0] if there else 0
        time.sleep(POLL_S)


def in_words(folder: Path) -> str:
    """Say what the newest job of a run is at, before the run itself can say it; "" if it has none.

    A controller that does not answer is said as well: nothing is raised.
    """
    numbers = [j.number for j in read_jobs(folder) if j.what == "run"]
    if not numbers:
        return ""
    try:
        state, why = commands.state_of(numbers[-1])
    except RealnetError as error:
        return f"job {numbers[-1]}: {error}"
    log = folder / f"slurm-{numbers[-1]}.log"
    ended = f": see {log}" if state in commands.ENDED else ""
    return f"job {numbers[-1]} is {state}" + (f" ({why})" if why else "") + ended


def interrupt(folder: Path) -> None:
    """Hand the head of a run, on another host, what Ctrl-C is. Raises RealnetError."""
    numbers = [j.number for j in read_jobs(folder) if j.what == "run"]
    if not numbers:
        raise RunFolderError(f"{folder} has no job: stop it on the host of its head")
    commands.call(["scancel", "--batch", "--signal=INT", str(numbers[-1])])
