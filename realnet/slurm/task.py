"""What srun starts on every node: the node's agent, and what becomes of the job without its head.

When the node of the head is lost, a job that may go on without a node stays as it is, with nobody
in it. So an agent that has given its head up has the job started again, if nobody else has.

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
from realnet.launch import agent
from realnet.launch.rendezvous import read_head
from realnet.slurm import commands
from realnet.slurm.records import read_submission

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
    if code == agent.EXIT_RETRY and read_submission(folder).site.get("again") == "requeue":
        for known in (signal.SIGTERM, signal.SIGINT):
            signal.signal(known, signal.SIG_IGN)
        if _head_is_gone(folder, attempt, number):
            _start_again(job, lives)
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


def _start_again(job: str, lives: int) -> None:
    """Requeue the job, unless it is in another life or at its end already."""
    with contextlib.suppress(RealnetError):
        state, restarts = commands.restarts(job)
        if state == "RUNNING" and restarts == lives:
            print(f"the head is gone: job {job} is requeued", flush=True)  # noqa: T201
            commands.call(["scontrol", "requeue", job])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
