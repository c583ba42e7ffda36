"""The last one out: ends what the processes of a run leave behind when their head is killed.

A process of its own, started by the launcher as a plain script (it imports nothing of realnet). It
reads "+PID" and "-PID" lines, the leaders of the sessions that live; at the end of its input the
head is gone, and it ends their groups and all that was started with the run's mark in its
environment. So an engine's own children go as well, whose parent had no time to end them.

Called with the mark as its only argument.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable

ROUNDS = 20


def main() -> None:
    """Read until the end, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark = b"REALNET_MARK=" + os.fsencode(sys.argv[1])
    leaders = set()
    for line in sys.stdin.buffer:
        pid = int(line[1:])
        if line.startswith(b"+"):
            leaders.add(pid)
        else:
            leaders.discard(pid)
    for pid in leaders:
        end(os.killpg, pid)
    for _ in range(ROUNDS):
        marked = [pid for pid in processes() if is_marked(pid, mark)]
        if not marked:
            break
        for pid in marked:
            end(os.kill, pid)
        time.sleep(0.05)


def end(how: Callable[[int, int], None], pid: int) -> None:
    """Kill a process or a group, if it is still there."""
    with contextlib.suppress(OSError):
        how(pid, signal.SIGKILL)


def processes() -> list[int]:
    """Return all pids that can be seen; none without /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def is_marked(pid: int, mark: bytes) -> bool:
    """Tell whether a process was started with the mark, or one that goes on from it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(w == mark or w.startswith(mark + b":") for w in file.read().split(b"\0"))
    except OSError:
        return False


if __name__ == "__main__":
    main()
