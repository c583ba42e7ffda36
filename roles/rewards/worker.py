"""The process that runs reward functions: `python -m realnet.roles.rewards.worker`.

Reads an opening frame (references, base folder, limits, the parent's pid), limits itself, imports
the rewards, says "ready", and then answers calls one after the other on its stdin socket. What user
code prints goes to stderr, which the pool reads with a cap.

Covered: the parent's death (the kernel then kills this process), memory, processor time, size of
written files, core dumps, output. Not covered: a process that user code starts may outlive a call
(the pool ends it when it ends this worker); the network and readable files are not shut off; code
that attacks the parent on purpose runs as the same user and can.

Knows nothing of tickets, tasks or retries. Started by `process.py` only.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import math
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from realnet.roles.rewards.frames import Frames, encode
from realnet.roles.rewards.references import Reward, resolve

_PR_SET_PDEATHSIG = 1
_FILE_BYTES = 64 << 20
_REASON_CHARS = 300


def main() -> NoReturn:
    """Serve until the socket closes."""
    link = _take_link()
    frames = Frames()
    opening = _receive(link, frames)
    _die_with(opening["parent"])
    _limit(opening["memory_bytes"])
    os.nice(opening["nice"])
    try:
        rewards = [resolve(r, Path(opening["base"])) for r in opening["references"]]
    except BaseException as error:  # the parent must hear why, whatever it is
        link.sendall(encode(["broken", _text(error)]))
        os._exit(1)
    link.sendall(encode(["ready", ""]))
    me, limit_s = os.getpid(), float(opening["limit_s"])
    while True:
        for number, which, *texts in _receive(link, frames):
            score, fault = _call(rewards[which], texts, limit_s)
            if os.getpid() != me:  # user code forked and its child came back here
                os._exit(0)
            link.sendall(encode([number, score, fault]))


def _call(reward: Reward, texts: list[str], limit_s: float) -> tuple[float | None, str]:
    """Return (score, "") or (None, what went wrong)."""
    processor_s = math.ceil(time.process_time() + 2 * limit_s + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (processor_s, resource.RLIM_INFINITY))
    try:
        value = reward(*texts)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)  # a loop of its own: nothing of it outlives the call
    except MemoryError:
        return None, "used more memory than it may (MemoryError)"
    except BaseException as error:  # SystemExit and KeyboardInterrupt of user code included
        traceback.print_exc(limit=-4)
        return None, f"raised {_text(error)}"
    return _number(value)


def _number(value: Any) -> tuple[float | None, str]:
    """Accept what is a finite number, numpy's and bool included; anything else is a fault."""
    if isinstance(value, str | bytes):
        return None, f"returned text ({value[:40]!a}), not a number"
    try:
        score = float(value)
    except OverflowError:
        return None, f"returned a {type(value).__name__} too large for a score"
    except BaseException:
        return None, f"returned a {type(value).__name__}, not a number"
    if not math.isfinite(score):
        return None, f"returned {score}, which is no score"
    return score, ""


def _text(error: BaseException) -> str:
    try:
        said = str(error)
    except BaseException:
        said = "(its text cannot be made)"
    text = f"{type(error).__name__}: {said}"[:_REASON_CHARS]
    text = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return text.encode("utf-8", "replace").decode()  # lone surrogates cannot be sent


def _take_link() -> socket.socket:
    """Move the pool's socket off stdin and stdout, so that user code reads nothing and prints to
    stderr."""
    link = socket.socket(fileno=os.dup(0))
    link.setblocking(True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return link


def _receive(link: socket.socket, frames: Frames) -> Any:
    while True:
        there, value = frames.take()
        if there:
            return value
        data = link.recv(1 << 18)
        if not data:
            os._exit(0)  # the pool is gone; nothing of user code may delay the end
        frames.feed(data)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies; go at once if it already has."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _limit(memory_bytes: int) -> None:
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
