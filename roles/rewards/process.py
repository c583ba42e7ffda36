"""One worker process, seen from the pool: start it, talk to it, end it and all it started.

Knows processes, sockets and time limits. Knows nothing of queues, retries or blame. Called by
`pool.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import realnet
from realnet.errors import ConfigError, RealnetError
from realnet.roles.rewards.frames import BadFrame, Frames, encode

_KEPT_ENV = frozenset(["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"])
_TAG = "REALNET_REWARD_SANDBOX"
_OUTPUT_CAP = 64 << 10  # bytes of a worker's output that are passed on
_START_S = 60.0
_GRACE_S = 0.05
_SWEEPS = 20

_numbers = itertools.count(1)


class WorkerLost(RealnetError):
    """The process is of no use any more; the text says what it did ("ran 15.0 s")."""


class WorkerProcess:
    """A reward process. `number` grows with every start: a larger one is fresher."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.number = next(_numbers)
        self._log = log
        self._tag = secrets.token_hex(8)
        self._frames = Frames()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._output: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Return the process's id; None when it is not running."""
        return self._process.pid if self._process else None

    async def start(
        self,
        references: Iterable[str],
        base: Path,
        limit_s: float,
        memory_bytes: int,
        nice: int = 0,
    ) -> None:
        """Start the process and wait until it has imported the rewards.

        Raises ConfigError when they cannot be imported, WorkerLost when the process ends.
        """
        ours, read_end = self._spawn(base)
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._output = asyncio.create_task(self._pass_on(read_end), name="reward output")
        opening = {
            "references": list(references),
            "base": str(base),
            "limit_s": limit_s,
            "memory_bytes": memory_bytes,
            "nice": nice,
            "parent": os.getpid(),
        }
        await self.send(opening)
        said, text = await self.receive(_START_S)
        if said != "ready":
            raise ConfigError(str(text))

    def _spawn(self, base: Path) -> tuple[socket.socket, int]:
        """Start the program; return our end of its socket and of the pipe that is its stderr."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "realnet.roles.rewards.worker"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=write_end,
                cwd=base,
                env=_environment(self._tag),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            os.close(read_end)
            raise
        finally:
            theirs.close()
            os.close(write_end)
        return ours, read_end

    async def send(self, value: Any) -> None:
        """Write one frame. A process that is gone is noticed when its answer is read."""
        if self._writer is None:
            raise WorkerLost("was not running")
        self._writer.write(encode(value))
        try:
            await self._writer.drain()
        except OSError:
            return

    async def receive(self, limit_s: float) -> Any:
        """Return the next frame. Raises WorkerLost, saying why, when none comes in time."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._next()
        except TimeoutError:
            pass
        try:
            # the answer may have come while this process itself was busy: look once more
            async with asyncio.timeout(_GRACE_S):
                return await self._next()
        except TimeoutError:
            ended = self._process.poll() if self._process else None
            cause = f"ran {limit_s:.1f} s" if ended is None else _describe(ended)
            raise WorkerLost(cause) from None

    async def _next(self) -> Any:
        while True:
            try:
                there, value = self._frames.take()
            except BadFrame as error:
                raise WorkerLost(f"wrote into its worker's socket ({error})") from None
            if there:
                return value
            try:
                data = await self._reader.read(1 << 18)
            except OSError:
                data = b""
            if not data:
                raise WorkerLost(_describe(await self._gone()))
            self._frames.feed(data)

    async def _gone(self) -> int:
        """Wait for the end of a process whose socket closed, and return its exit status."""
        process = self._process
        if process is None:
            return 0
        for _ in range(200):
            status = process.poll()
            if status is not None:
                return status
            await asyncio.sleep(0.005)
        process.kill()  # it closed its socket and lives on
        return process.wait()

    async def end(self) -> None:
        """Kill the process and everything it started, and wait until it is gone."""
        process, self._process = self._process, None
        writer, self._writer = self._writer, None
        if process is not None:
            _kill_group(process.pid)
            _sweep(self._tag)
            process.wait()  # SIGKILL was sent: this is the kernel's few milliseconds
            _sweep(self._tag)
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if self._output is not None:
            output, self._output = self._output, None
            output.cancel()
            await asyncio.wait([output])

    async def _pass_on(self, read_end: int) -> None:
        """Hand the process's output to the log, up to the cap; read on, so that it never blocks."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
        )
        try:
            left = _OUTPUT_CAP
            while data := await reader.read(1 << 16):
                if left > 0:
                    self._log(data[:left].decode("utf-8", "replace"))
                    left -= len(data)
                    if left <= 0:
                        self._log("\n[the rest of this reward worker's output is left out]\n")
        finally:
            transport.close()


def _environment(tag: str) -> dict[str, str]:
    """Return what user code may see: no keys, tokens or passwords of the launching shell."""
    kept = {k: v for k, v in os.environ.items() if k in _KEPT_ENV or k.startswith("LC_")}
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    kept |= dict.fromkeys(threads, "1")
    paths = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(":") if p]
    root = Path(realnet.__file__).parent.parent
    # an installed package is found anyway, and site-packages must not come before the standard
    # library
    if root.name not in ("site-packages", "dist-packages") and str(root) not in paths:
        paths.append(str(root))
    return kept | {"PYTHONPATH": ":".join(paths), _TAG: tag}


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended its process with exit code {status}"
    if -status == signal.SIGXCPU:
        return "used more processor time than it may"
    try:
        name = f" ({signal.Signals(-status).name})"
    except ValueError:
        name = ""
    return f"was killed by signal {-status}{name}"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _sweep(tag: str) -> None:
    """Kill what left the process group (setsid, double fork): it still carries the tag."""
    mark = f"{_TAG}={tag}".encode()
    for _ in range(_SWEEPS):
        found = [pid for pid in _pids() if _carries(pid, mark)]
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # not Linux: the process group is all that can be ended


def _carries(pid: int, mark: bytes) -> bool:
    """Tell whether this live process has the mark in its environment (a zombie's reads empty)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False
