"""Starts the processes of a run on this machine.

Each gets a session of its own (Ctrl-C reaches the head only), a log file, as many OpenMP threads
as its roles have cpus, the GPUs of its slice, and of the secrets in the head's environment those of
its role. What a killed role leaves behind is found and ended: it comes to this process (a
subreaper), or, if this process itself is killed, to the guardian. Only what this launcher started
is ever killed or reaped: there may be others' children here. Where processes have keys, each
inherits a descriptor of its own secret, and of no other.

Knows nothing of records or actors. Called by `head.py` through its `Launcher` protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import realnet
from realnet import host
from realnet.launch import REFUSED, STACKS, Exited, stacks_folder, stacks_path, writes_stacks
from realnet.launch.ports import HeldPort
from realnet.topology.plan import Plan, SlotPlan

_HOME = str(Path(realnet.__file__).parent.parent)
_GUARDIAN = Path(__file__).with_name("guardian.py")


class _Life(NamedTuple):
    """A process that was started: `words` is where it says why it refuses to go on."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    words: int


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
        self._slots = {s.name: s for s in plan.slots}
        self._folder = folder
        self._logs = logs
        self._stacks = stacks_folder(folder, attempt)
        self._stacks.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._endpoint = head_endpoint
        self._attempt = attempt
        self._resumed = resumed
        self._lives: dict[str, _Life] = {}
        self._orphans: set[int] = set()
        self._ports: dict[str, tuple[int, HeldPort]] = {}
        self.placed: dict[str, dict[str, str]] = {}  # slot -> environment; an agent's, see below
        self._gpus = _gpu_slices(plan)
        self._mark = os.urandom(8).hex()
        host.allow_files()
        self._was_subreaper = host.set_subreaper(True)
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARDIAN), self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def spawn(self, slot: str, incarnation: int, exited: Exited) -> int:
        """Start the process of a slot; return its id, 0 if the system has no room for it now."""
        try:
            return self._spawn(slot, incarnation, exited)
        except OSError as error:
            told = partial(exited, f"it could not be started: {host.no_room(error)}", lost=True)
            asyncio.get_running_loop().call_soon(told)
            return 0

    def _spawn(self, slot: str, incarnation: int, exited: Exited) -> int:
        log_path = self._logs / f"{slot.replace('/', '-')}.log"
        mark = f"{self._mark}:{slot}~{incarnation}"
        words, their_words = os.pipe()
        inherited = [their_words]
        environment = self._environment(self._slots[slot], incarnation)
        environment |= {"REALNET_MARK": mark, "REALNET_WORDS_FD": str(their_words)}
        if self._open_secret is not None:
            inherited.append(self._open_secret(slot))
            environment["REALNET_KEY_FD"] = str(inherited[-1])
        environment |= self.placed.get(slot, {})
        try:
            with _log(log_path, f"--- {slot}, life {incarnation}\n") as log:
                process = subprocess.Popen(
                    [
                        *self._plan.roles[self._slots[slot].roles[0]].spawn,
                        *(sys.executable, "-P", "-m", "realnet.member", str(self._folder), slot),
                        *(str(incarnation), self._endpoint, str(os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=inherited,
                    start_new_session=True,
                )
        except BaseException:
            os.close(words)
            raise
        finally:
            for fd in inherited:
                os.close(fd)
        life = self._lives[slot] = _Life(process, mark, log_path, words)
        self._tell_guardian(f"+{process.pid}")
        host.when_it_ends(process, lambda: self._ended(slot, life, exited))
        return process.pid

    def kill(self, slot: str) -> None:
        """End a process at once."""
        life = self._lives.get(slot)
        if life is not None:
            with contextlib.suppress(ProcessLookupError):
                life.process.kill()

    def dump(self, slot: str) -> str:
        """Make a process write its stacks; return where it does, or "" if it cannot."""
        life = self._lives.get(slot)
        path = stacks_path(self._stacks, slot)
        if life is None or not writes_stacks(path, life.process.pid):
            return ""
        with contextlib.suppress(ProcessLookupError):
            life.process.send_signal(STACKS)
        return str(path)

    def alive(self) -> list[str]:
        """The slots whose process has not ended."""
        self._reap()
        return list(self._lives)

    def close(self) -> None:
        """Let the guardian go; call it when all processes have ended."""
        self._reap()
        host.set_subreaper(self._was_subreaper)  # this process may be somebody else's
        if self._guardian.stdin is not None:
            with contextlib.suppress(OSError):
                self._guardian.stdin.close()
        self._guardian.wait()
        for _, port in self._ports.values():
            port.close()

    async def open_arena(self, slot: str, name: str, num_bytes: int) -> str:
        """Nothing: this is the head's own host."""
        return ""

    def _ended(self, slot: str, life: _Life, exited: Exited) -> None:
        pid = life.process.pid
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # before wait(): the number is still its own
        code = life.process.wait()
        said = _last_words_to_us(life.words)
        self._tell_guardian(f"-{pid}")
        if self._lives.get(slot) is life:
            del self._lives[slot]
        self._end_orphans_of(life)
        if code < 0:
            exited(f"killed by {_signal_name(-code)}")
        elif said.startswith(REFUSED):
            text = said.removeprefix(REFUSED).decode(errors="replace").strip()
            exited(f"exit code {code} ({text})", refused=True)
        else:
            exited(f"exit code {code}" + (f" ({_last_words(life.log)})" if code else ""))

    def _environment(self, slot: SlotPlan, incarnation: int) -> dict[str, str]:
        planned = self._plan.roles[slot.roles[0]]
        threads = str(planned.cpus)
        secrets = {s for r in self._plan.roles.values() for s in r.secrets}
        own = {s for r in slot.roles for s in self._plan.roles[r].secrets}
        return {
            **{k: v for k, v in os.environ.items() if k not in secrets or k in own},
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of a full machine cost 10x
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            # The head's own realnet, wherever it was started: never one that lies in this folder.
            "PYTHONPATH": os.pathsep.join(p for p in (_HOME, os.environ.get("PYTHONPATH")) if p),
            "CUDA_VISIBLE_DEVICES": self._gpus.get(slot.name, ""),
            "REALNET_PLAN": self._plan.digest(),
            "REALNET_ATTEMPT": str(self._attempt),
            "REALNET_RESUMED": "1" if self._resumed else "0",
            **self._meeting_point(slot, planned.ranks, incarnation),
            **planned.env,
        }

    def _meeting_point(self, slot: SlotPlan, ranks: int, incarnation: int) -> dict[str, str]:
        """What torch.distributed and the like need to find each other; a new port for each life."""
        if not slot.gang:
            return {}
        if not self.placed:
            self.hold_port(slot.gang, incarnation)
        _, port = self._ports.get(slot.gang, (0, None))
        return {
            "RANK": str(slot.rank),
            "LOCAL_RANK": "0",  # each process sees the GPUs of its own slice only
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port.number if port is not None else 0),
        }

    def hold_port(self, gang: str, incarnation: int) -> int:
        """Return the port at which the ranks of this life of a gang meet; it is held until the
        next life, or the end."""
        life, port = self._ports.get(gang, (0, None))
        if port is None or life != incarnation:
            if port is not None:
                port.close()
            port = HeldPort()
            self._ports[gang] = incarnation, port
        return port.number

    def _tell_guardian(self, line: str) -> None:
        if self._guardian.stdin is not None:
            with contextlib.suppress(OSError):  # somebody ended it: we do without
                self._guardian.stdin.write(line.encode() + b"\n")
                self._guardian.stdin.flush()

    def _end_orphans_of(self, life: _Life) -> None:
        """End what a dead process left to us: of its session, or started with its mark."""
        ours = {other.process.pid for other in self._lives.values()} | {self._guardian.pid}
        mark = f"REALNET_MARK={life.mark}".encode()
        for child in host.children() - ours - self._orphans:
            if host.session_of(child) == life.process.pid or host.started_with(child, mark):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
                self._orphans.add(child)
        self._reap()

    def _reap(self) -> None:
        for child in list(self._orphans):
            try:
                gone, _ = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                gone = child
            if gone:
                self._orphans.discard(child)


def _log(path: Path, first: str) -> BinaryIO:
    """Open a log and write its next line; on a full disk the process goes without one."""
    try:
        log = path.open("ab", buffering=0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return open(os.devnull, "ab", buffering=0)
    with contextlib.suppress(OSError):
        log.write(first.encode())
    return log


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words_to_us(words: int) -> bytes:
    os.set_blocking(words, False)  # a child of it may hold the other end open
    try:
        return os.read(words, 1 << 16)
    except BlockingIOError:
        return b""
    finally:
        os.close(words)


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
