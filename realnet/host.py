"""What this operating system offers, and what does its work where it does not.

Linux has pidfds (ends of processes seen by the loop), PR_SET_PDEATHSIG (a process dies with its
parent), subreapers (orphans come to us), memfds and /proc. Elsewhere (macOS) a thread waits for an
end, a thread watches the parent, a process group stands for the orphans, and shared memory is a
file in a private folder. Features are looked for, never versions. REALNET_PLAIN_HOST=1 pretends
that there are none, so that the other way is tested on Linux as well.

Knows nothing of runs or slots. Used by `launch/`, `member.py`, `arena.py`, `observe/status.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PLAIN = "REALNET_PLAIN_HOST"
PARENT_S = 0.25
OPEN_FILES = 65536
# Up to there glibc itself stops to give freed blocks back one by one, once it has seen such.
HELD_BLOCK_BYTES = 32 * 2**20
HELD_BYTES = 256 * 2**20
HELD_STEP_BYTES = 16 * 2**20
_MALLOC_NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


def has_prctl() -> bool:
    """Tell whether processes can be made to die with their parent, and orphans come to us."""
    return sys.platform == "linux" and not os.environ.get(PLAIN)


def has_pidfd() -> bool:
    """Tell whether a loop can see the end of a process."""
    return hasattr(os, "pidfd_open") and not os.environ.get(PLAIN)


def has_memfd() -> bool:
    """Tell whether shared memory can do without a name, and others can open it through /proc."""
    return hasattr(os, "memfd_create") and has_proc()


def has_proc() -> bool:
    """Tell whether /proc shows processes."""
    return Path("/proc/self/stat").exists() and not os.environ.get(PLAIN)


def clock_name() -> str:
    """Return what processes have in common whose monotonic clocks are one; "" if unknown."""
    return namespace("time")


def namespace(kind: str) -> str:
    """Return what names a namespace of this boot ("pid", "time") everywhere; "" if unknown."""
    if not has_proc():
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(f'/proc/self/ns/{kind}')}"
    except OSError:
        return ""


def die_with_parent(parent: int) -> None:
    """End this process, and what it started, when its parent dies."""
    if has_prctl():
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, at most `HELD_BYTES` of it; tell whether it will.

    glibc gives large blocks back to the system as they are freed, and each page of the next one is
    a fault and is zeroed: for messages of megabytes that is half of their CPU (measured: 0.6 s a GB
    against 0.4). Nothing is changed where the allocator is another one, or was told its settings.
    """
    told = any(name in os.environ for name in _MALLOC_NAMES)
    if sys.platform != "linux" or told or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = (
        (_M_MMAP_THRESHOLD, HELD_BLOCK_BYTES),
        (_M_TRIM_THRESHOLD, HELD_BYTES),
        (_M_TOP_PAD, HELD_STEP_BYTES),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    with contextlib.suppress(OSError):
        if os.getpgid(0) == os.getpid():  # we lead our group: all of it is ours
            os.killpg(0, signal.SIGKILL)
    os._exit(1)


def allow_files() -> int:
    """Let this process, and what it will start, have as many open files as the system lets it, up
    to `OPEN_FILES`; return how many that are. Links take some for each peer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return OPEN_FILES
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if most > soft:
        with contextlib.suppress(OSError, ValueError):  # macOS has a limit below its hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def no_room(error: OSError) -> str:
    """Return what the system refused, and what to do; the limit, where it is one of ours."""
    said = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"{said}: this process may have {most} (ulimit -n): allow more, or run fewer members"
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return f"{said}: the machine has no room for another process (memory, ulimit -u)"
    return f"{error.filename}: {said}" if error.filename else said


def set_subreaper(on: bool) -> bool:
    """Let what the processes that we start leave behind come to us, or not; return what was."""
    if not has_prctl():
        return False
    libc, was = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)
    return bool(was.value)


def children() -> set[int]:
    """Return the pids of the children of this process, as far as that can be known."""
    found: set[int] = set()
    if has_proc():
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                found |= {int(c) for c in (task / "children").read_text().split()}
    return found


def memory_bytes() -> int:
    """Return how much memory this process and all below it have taken for themselves; 0: not known.

    What is shared or is a file's, as a mapped version of weights, does not count.
    """
    if not has_proc():
        return 0
    total, pids = 0, [os.getpid()]
    while pids:
        process = Path(f"/proc/{pids.pop()}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = (process / "status").read_text()
            total += int(status.split("RssAnon:", 1)[1].split(None, 1)[0]) << 10
            for task in (process / "task").iterdir():
                pids += [int(c) for c in (task / "children").read_text().split()]
    return total


def session_of(pid: int) -> int:
    """Return the session of a process; -1 if it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def started_with(pid: int, mark: bytes) -> bool:
    """Tell whether this text was in the environment that a process was started with."""
    if has_proc():
        with contextlib.suppress(OSError):
            return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def command_of(pid: int) -> str:
    """Return the command line of a process, its words parted by spaces; "" if it is gone."""
    if pid <= 0:
        return ""
    if has_proc():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            return words.replace(b"\0", b" ").decode(errors="replace").strip()
        return ""
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True)
    return shown.stdout.decode(errors="replace").strip()


def when_it_ends(process: subprocess.Popen[bytes], ended: Callable[[], None]) -> None:
    """Call `ended` in this loop when a process has ended; it is not reaped before that."""
    loop = asyncio.get_running_loop()
    if has_pidfd():
        pidfd = os.pidfd_open(process.pid)

        def seen() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            ended()

        loop.add_reader(pidfd, seen)
        return

    def wait() -> None:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(ended)

    threading.Thread(target=wait, name=f"wait {process.pid}", daemon=True).start()
