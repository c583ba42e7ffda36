"""Where the head of an attempt is: a file in the run's folder, found by the agents of its hosts.

    attempts/<n>/head.json     of mode 0600, whole or not at all, there while the attempt goes on
    attempts/current           the number of the newest attempt that has one, replaced last

It is keyed by attempt, never by job: a job that is started again keeps its number. The nonce is
said in every hello and in the answer to it, so that a file left by another run is not believed.

Knows nothing of sockets. Used by `hosts.py`, `agent.py` and `slurm/`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from realnet.errors import RunFolderError
from realnet.guest.meeting import write_private

POLL_S = 0.1
GONE = "."  # what `current` says when the run is over


class HeadWay(msgspec.Struct, frozen=True):
    """One address of the head: the endpoint there, and where anybody may connect to see that it
    can be reached ("10.0.0.3:4711")."""

    endpoint: str
    probe: str


class HeadFile(msgspec.Struct, frozen=True):
    """How the head of an attempt is found: at `endpoint`, the first of `ways`, or another of them:
    one for each address of its host. `digest` (of the plan) and `code` (of realnet's own files)
    must be the same on all hosts; `gpus`: whether anybody needs some."""

    run: str
    attempt: int
    endpoint: str
    nonce: str
    digest: str
    resumed: bool
    host: str
    pid: int
    wall_s: float
    code: str = ""
    gpus: int = 0
    ways: tuple[HeadWay, ...] = ()


def head_path(folder: Path, attempt: int) -> Path:
    """Return where the head of an attempt says where it is."""
    return folder / "attempts" / str(attempt) / "head.json"


def canary_path(folder: Path, attempt: int) -> Path:
    """Return the file that shows that the folder is the same one on another host."""
    return folder / "attempts" / str(attempt) / "canary"


def write_head(folder: Path, head: HeadFile) -> None:
    """Say where the head is, for this attempt."""
    write_private(canary_path(folder, head.attempt), head.nonce.encode())
    write_private(head_path(folder, head.attempt), msgspec.json.encode(head))
    write_private(folder / "attempts" / "current", str(head.attempt).encode())


def prefer(folder: Path, attempt: int, endpoint: str) -> None:
    """From now on the head is first looked for at this one of its endpoints."""
    head = read_head(folder, attempt)
    if head is not None and endpoint in [way.endpoint for way in head.ways]:
        ways = tuple(sorted(head.ways, key=lambda way: way.endpoint != endpoint))
        head = msgspec.structs.replace(head, endpoint=endpoint, ways=ways)
        write_private(head_path(folder, attempt), msgspec.json.encode(head))


def end_head(folder: Path, attempt: int, *, over: bool = False) -> None:
    """The attempt is over, and with `over` the run: agents that come later need not wait."""
    with contextlib.suppress(OSError):
        head_path(folder, attempt).unlink()
        if over:
            write_private(folder / "attempts" / "current", GONE.encode())


def read_head(folder: Path, attempt: int = 0) -> HeadFile | None:
    """Return where the head of an attempt (0: of the newest) is; None if it does not say so."""
    try:
        if not attempt:
            text = (folder / "attempts" / "current").read_text().strip()
            if not text.isdigit():
                return None
            attempt = int(text)
        head = msgspec.json.decode(head_path(folder, attempt).read_bytes(), type=HeadFile)
    except (OSError, msgspec.DecodeError):
        return None
    return head if head.attempt == attempt else None


def await_head(folder: Path, attempt: int, limit_s: float) -> HeadFile:
    """Wait until the head says where it is. Raises RunFolderError."""
    until_s = time.monotonic() + limit_s
    while True:
        # A network file system remembers for a while that there was nothing: looking at the
        # folder makes it look again.
        with contextlib.suppress(OSError):
            os.listdir(folder / "attempts" / (str(attempt) if attempt else "."))
        head = read_head(folder, attempt)
        if head is not None:
            return head
        if time.monotonic() > until_s:
            which = f"attempt {attempt}" if attempt else "the run"
            raise RunFolderError(
                f"the head of {which} has not said in {limit_s:.0f} s where it is, in "
                f"{folder}/attempts: is {folder} on a file system that all hosts share?"
            )
        time.sleep(POLL_S)
