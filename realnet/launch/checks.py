"""What is looked at on a host before a run: is the folder shared, is the code the same, is there
room, are there GPUs, may enough files be open.

Each agent looks at its own host, all at the same time; the head excludes those that are not fit and
says why. Clocks and who reaches whom are looked at by the head (`hosts.py`).

Knows nothing of slots. Used by `agent.py` and `fleet.py`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import realnet
from realnet import host
from realnet.launch.records import Check
from realnet.launch.rendezvous import HeadFile, canary_path

MIN_FILES = 1024
MIN_SHM_BYTES = 64 << 20
GPU_S = 15.0
SCRATCH = "REALNET_SCRATCH"  # the folder for temporary files that the site wants


def look_at_this_host(folder: Path, head: HeadFile) -> tuple[Check, ...]:
    """Return what was looked at here, all of it."""
    checks = [_canary(folder, head), _code(head), _files(), _shared_memory(), _scratch()]
    if head.gpus:
        checks.append(_gpus())
    return tuple(checks)


@functools.cache
def code_digest() -> str:
    """Return a digest of realnet's own code on this host."""
    home = Path(realnet.__file__).resolve().parent
    digest = hashlib.blake2b(digest_size=8)
    for root, folders, files in os.walk(home, followlinks=True):
        folders[:] = sorted(f for f in folders if f not in ("__pycache__", "topologies"))
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(root) / name
                digest.update(str(path.relative_to(home)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _canary(folder: Path, head: HeadFile) -> Check:
    path = canary_path(folder, head.attempt)
    try:
        well = path.read_text() == head.nonce
        text = "" if well else f"{path} is another file here"
    except OSError as error:
        well, text = False, f"{path}: {error.strerror}"
    if well and not os.access(folder / "attempts", os.W_OK):
        well, text = False, f"{folder} cannot be written here"
    return Check("shared folder", well, text)


def _code(head: HeadFile) -> Check:
    own = code_digest()
    where = Path(realnet.__file__).parent
    text = f"{where} has other code ({own}) than the head ({head.code}): install the same version"
    return Check("code", own == head.code, "" if own == head.code else text)


def _files() -> Check:
    most = host.allow_files()
    well = most >= MIN_FILES
    return Check("ulimit -n", well, "" if well else f"{most} open files; {MIN_FILES} are needed")


def _shared_memory() -> Check:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        return Check("/dev/shm", False, str(error.strerror))
    text = f"{free >> 20} MiB free; {MIN_SHM_BYTES >> 20} are needed"
    return Check("/dev/shm", free >= MIN_SHM_BYTES, "" if free >= MIN_SHM_BYTES else text)


def _scratch() -> Check:
    """Else temporary files, and with them sockets, would quietly be somewhere else: SLURM takes
    /tmp where it cannot make the TMPDIR that it was told.
    """
    where = os.environ.get(SCRATCH) or os.environ.get("TMPDIR", "")
    well = not where or (os.path.isdir(where) and os.access(where, os.W_OK | os.X_OK))
    return Check("scratch", well, "" if well else f"{where} is no folder that can be written here")


def _gpus() -> Check:
    """Ask the driver; without one there is nothing to ask, and counting is for the placement."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("GPU", True)
    errors = "--query-gpu=index,ecc.errors.uncorrected.volatile.total"
    query = [program, errors, "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=GPU_S)
    except (OSError, subprocess.TimeoutExpired):
        return Check("GPU", False, f"nvidia-smi does not answer within {GPU_S:g} s")
    if told.returncode:
        return Check("GPU", False, told.stdout.strip()[:200] or told.stderr.strip()[:200])
    bad = [
        line
        for line in told.stdout.splitlines()
        if (number := line.rpartition(",")[2].strip()).isdecimal() and int(number)
    ]
    return Check("GPU", not bad, f"uncorrected memory errors: {'; '.join(bad)}" if bad else "")
