"""What srun starts on every node: the node's agent, and what becomes of the job without its head.

When the node of the head is lost, a job that may go on without a node stays as it is, with nobody
in it. So an agent that has given its head up sees to it that the run goes on as the site says, and
that no job holds nodes for nothing, if nobody else has.

Knows nothing of slots. Called by `fleet.py`; the agent is `launch/agent.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from realnet.errors import RealnetError
from realnet.exits import EXIT_RETRY
from realnet.launch import agent
from realnet.launch.rendezvous import read_head
from realnet.slurm import commands
from realnet.slurm.records import read_submission
from realnet.slurm.successor import submit_successor

PAUSE_S = 3.0  # a head writes its status twice a second


def main(argv: list[str]) -> int:
    """Be the agent of this node until the head, or its silence, ends it."""
    at = argv.index("--first")  # the number of the first node of this part of the job
    first, argv = int(argv[at + 1]), argv[:at] + argv[at + 2 :]
    # Of a job of several parts, the first is the one that is started again.
    job = os.environ.get("SLURM_HET_JOB_ID") or os.environ["SLURM_JOB_ID"]
    number = first + int(os.environ["SLURM_NODEID"])
    lives = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    folder, attempt = Path(argv[0]), int(argv[argv.index("--attempt") + 1])
    host = os.environ["SLURMD_NODENAME"]
    code = agent.main([*argv, "--number", str(number), "--host", host])
    if code == EXIT_RETRY:
        for known in (signal.SIGTERM, signal.SIGINT):
            signal.signal(known, signal.SIG_IGN)
        if _head_is_gone(folder, attempt, number):
            again = str(read_submission(folder).site.get("again"))
            with contextlib.suppress(RealnetError):
                _go_on(folder, attempt, again, job, lives)
    return code


def _head_is_gone(folder: Path, attempt: int, number: int) -> bool:
    """Tell whether the head has stopped writing, not only become unheard by this node.

    One that ends in order takes its address back. The agents take turns, so that one of them acts.
    """
    before = _last_sign(folder)
    time.sleep(PAUSE_S + number % 5)
    return read_head(folder, attempt) is not None and _last_sign(folder) == before


def _last_sign(folder: Path) -> bytes:
    try:
        return (folder / "status.json").read_bytes()  # opened: not what is remembered of it
    except OSError:
        return b""


def _go_on(folder: Path, attempt: int, again: str, job: str, lives: int) -> None:
    """Have the run go on, unless the job is in another life or at its end already."""
    if not _as_it_was(job, lives):
        return
    try:
        if again == "requeue":
            commands.call(["scontrol", "requeue", job])
            print(f"the head is gone: job {job} is requeued", flush=True)  # noqa: T201
            return
        if not _first(folder, attempt):
            return
        then = f"job {submit_successor(folder, job)} goes on" if again == "successor" else "it ends"
    except RealnetError as error:
        if not _as_it_was(job, lives):  # another of us was faster
            return
        then = f"it does not go on by itself: {error}"
    print(f"the head is gone: job {job} is given up, {then}", flush=True)  # noqa: T201
    commands.call(["scancel", job])


def _as_it_was(job: str, lives: int) -> bool:
    return commands.restarts(job) == ("RUNNING", lives)


def _first(folder: Path, attempt: int) -> bool:
    """Tell whether we are the one of the agents that sees to it."""
    try:
        (folder / "attempts" / str(attempt) / "given_up").touch(exist_ok=False)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
