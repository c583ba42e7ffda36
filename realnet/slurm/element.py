"""One element of an array of elastic hosts: an agent that comes, leaves when told, comes again.

    python -m realnet.slurm.element FOLDER ROLE FIRST [POOL]

SLURM signals this process; it passes the signal on, and the agent has the head end in order what is
there. Then it waits to be killed: an element that ends by itself within its grace counts as done
and is not started again. Without a head it waits for the run's next life, for a while.

Knows nothing of slots. Called by the script of `bin/join` (`script.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from realnet.errors import RealnetError
from realnet.exits import EXIT_FENCED, EXIT_NEVER, EXIT_OK, EXIT_RETRY
from realnet.launch.rendezvous import GONE, read_head
from realnet.slurm import commands
from realnet.slurm.records import read_submission
from realnet.slurm.script import site_of
from realnet.slurm.site import for_pool

AGAIN_S = 2.0
IDLE_S = 600.0  # without a head an element does not hold its node for longer
POLL_S = 0.5
NEAR_THE_LIMIT_S = 600.0
LINGER_S = 300.0


class Element:
    """The life of one element of an array."""

    def __init__(self, folder: Path, role: str, first: int, pool: str = ""):
        self.folder, self.role, self.pool = folder, role, pool
        self.number = first + int(os.environ["SLURM_ARRAY_TASK_ID"])
        array, task = os.environ["SLURM_ARRAY_JOB_ID"], os.environ["SLURM_ARRAY_TASK_ID"]
        self.job = f"{array}_{task}"  # SLURM_JOB_ID of one of them means all
        self.asked: signal.Signals | None = None
        self.agent: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Be an agent while there is a run."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        idle_since_s = time.monotonic()
        while self.asked is None and not self._over():
            if read_head(self.folder) is None:
                if time.monotonic() - idle_since_s > IDLE_S:
                    print(f"no head for {IDLE_S:g} s: this host is given back", flush=True)  # noqa: T201
                    return 0
                time.sleep(POLL_S)
                continue
            code = self._be_an_agent()
            idle_since_s = time.monotonic()
            if code not in (EXIT_OK, EXIT_RETRY, EXIT_FENCED) and self.asked is None:
                return EXIT_NEVER
            time.sleep(AGAIN_S)
        return 0 if self.asked is None else self._linger()

    def _over(self) -> bool:
        with contextlib.suppress(OSError):
            return (self.folder / "attempts" / "current").read_text().strip() == GONE
        return False

    def _be_an_agent(self) -> int:
        site = for_pool(site_of(read_submission(self.folder)), self.pool)
        words = [
            *site.wrap,
            *(sys.executable, "-P", "-m", "realnet.launch.agent", str(self.folder)),
            *("--number", str(self.number), "--host", os.environ["SLURMD_NODENAME"]),
            *("--elastic", self.role, "--parent", str(os.getpid())),
        ]
        self.agent = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        if self.asked is not None:
            self.agent.send_signal(self.asked)
        return self.agent.wait()

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = signal.Signals(number)
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError):
                self.agent.send_signal(number)

    def _linger(self) -> int:
        """Wait for the end that SLURM has in mind; near the time limit, ask for another life."""
        left_s = commands.seconds_left(self.job)
        if self.asked == signal.SIGUSR2 and left_s is not None and left_s < NEAR_THE_LIMIT_S:
            with contextlib.suppress(RealnetError):
                commands.call(["scontrol", "requeue", self.job])
        until_s = time.monotonic() + LINGER_S
        while time.monotonic() < until_s and not self._over() and not self._cancelled():
            time.sleep(AGAIN_S)
        return EXIT_RETRY

    def _cancelled(self) -> bool:
        with contextlib.suppress(RealnetError):
            return commands.restarts(self.job)[0] == "CANCELLED"
        return False


if __name__ == "__main__":
    sys.exit(Element(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:]).run())
