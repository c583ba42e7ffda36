"""Starts the processes of a run on this machine.

Each gets a session of its own (Ctrl-C reaches the head only), a log file, as many OpenMP threads
as its roles have cpus, and the GPUs of its slice. Their ends are seen through pidfds. This process
becomes a subreaper: what a killed role leaves behind is found and ended as well. Where processes
have keys, each inherits a descriptor of its own secret, and of no other.

Knows nothing of records or actors. Called by `head.py` through its `Launcher` protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import realnet
from realnet.topology.plan import Plan

_PR_SET_CHILD_SUBREAPER = 36
_HOME = str(Path(realnet.__file__).parent.parent)


class LocalLauncher:
    """The processes that this head started."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        logs: Path,
        head_endpoint: str,
        attempt: int,
        resumed: bool,
        open_secret: Callable[[str], int] | None = None,
    ):
        self._open_secret = open_secret
        self._plan = plan
        self._folder = folder
        self._logs = logs
        self._endpoint = head_endpoint
        self._attempt = attempt
        self._resumed = resumed
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._gpus = _gpu_slices(plan)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def spawn(self, slot: str, incarnation: int, exited: Callable[[str], None]) -> int:
        """Start the process of a slot."""
        role = slot.partition("/")[0]
        path = self._logs / f"{slot.replace('/', '-')}.log"
        secret = self._open_secret(slot) if self._open_secret is not None else None
        environment = self._environment(role, slot)
        if secret is not None:
            environment["REALNET_KEY_FD"] = str(secret)
        with path.open("ab") as log:
            log.write(f"--- {slot}, life {incarnation}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "realnet.member", str(self._folder), slot),
                    *(str(incarnation), self._endpoint, str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=() if secret is None else (secret,),
                start_new_session=True,
            )
        if secret is not None:
            os.close(secret)
        self._processes[slot] = process
        pidfd = os.pidfd_open(process.pid)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # before wait(): the number is still its own
            code = process.wait()
            if self._processes.get(slot) is process:
                del self._processes[slot]
            self._end_children_of(process.pid)
            if code < 0:
                exited(f"killed by {signal.Signals(-code).name}")
            else:
                exited(f"exit code {code}" + (f" ({_last_words(path)})" if code else ""))

        loop.add_reader(pidfd, ended)
        return process.pid

    def kill(self, slot: str) -> None:
        """End a process at once."""
        process = self._processes.get(slot)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def alive(self) -> list[str]:
        """The slots whose process has not ended."""
        return list(self._processes)

    def _environment(self, role: str, slot: str) -> dict[str, str]:
        planned = self._plan.roles[role]
        threads = str(planned.cpus)
        return {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of a full machine cost 10x
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            # The head's own realnet, wherever it was started: never one that lies in this folder.
            "PYTHONPATH": os.pathsep.join(p for p in (_HOME, os.environ.get("PYTHONPATH")) if p),
            "CUDA_VISIBLE_DEVICES": self._gpus.get(slot, ""),
            "REALNET_PLAN": self._plan.digest(),
            "REALNET_ATTEMPT": str(self._attempt),
            "REALNET_RESUMED": "1" if self._resumed else "0",
            **planned.env,
        }

    def _end_children_of(self, pid: int) -> None:
        """End what a dead process left to us of its own session."""
        ours = {p.pid for p in self._processes.values()}
        for child in _children(os.getpid()) - ours:
            if _session(child) == pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            for child in _children(os.getpid()) - ours:
                os.waitpid(child, os.WNOHANG)


def _last_words(log: Path) -> str:
    """Return the last line that a process left in its log: most often the error that ended it."""
    with contextlib.suppress(OSError):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        for line in reversed(lines):
            if line.strip() and not line.startswith("---"):
                return line.strip()[:300]
    return f"it left no word in {log.name}"


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found |= {int(c) for c in (task / "children").read_text().split()}
    return found


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _gpu_slices(plan: Plan) -> dict[str, str]:
    """Give each slot its GPUs by position among those that are visible."""
    visible = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
    slices: dict[str, str] = {}
    at = 0
    for slot in plan.slots:
        wanted = max(plan.roles[r].gpus for r in slot.roles)
        names = visible[at : at + wanted] if visible else [str(at + i) for i in range(wanted)]
        slices[slot.name] = ",".join(names)
        at += wanted
    return slices
