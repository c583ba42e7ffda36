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

PAUSE_S = 1.0


def main(argv: list[str]) -> int:
    """Be the agent of this node until the head, or its silence, ends it."""
    job, number = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_PROCID"])
    lives = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    folder, attempt = Path(argv[0]), int(argv[argv.index("--attempt") + 1])
    host = os.environ["SLURMD_NODENAME"]
    code = agent.main([*argv, "--number", str(number), "--host", host])
    # A head that ends in order takes its address back.
    gone = code == agent.EXIT_RETRY and read_head(folder, attempt) is not None
    if gone and read_submission(folder).site.get("again") == "requeue":
        _start_again(job, lives, number)
    return code


def _start_again(job: str, lives: int, number: int) -> None:
    """Requeue the job, unless it is in another life or at its end already."""
    for known in (signal.SIGTERM, signal.SIGINT):
        signal.signal(known, signal.SIG_IGN)
    time.sleep(PAUSE_S * (1 + number % 5))  # one of the agents does it
    with contextlib.suppress(RealnetError):
        state, restarts = commands.restarts(job)
        if state == "RUNNING" and restarts == lives:
            print(f"the head is gone: job {job} is requeued", flush=True)  # noqa: T201
            commands.call(["scontrol", "requeue", job])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
