"""The library of the kernels: built for one machine, and found again there.

It is of one source, one compiler's flags and one kind of CPU, and its name says so: a host with
another CPU that sees the same files does not find it, and goes without. Its digest stands behind
it: a library that was cut off would end the process where it is first touched.

Knows files and the C compiler; imports no torch, so that a build that is there takes no time.
Called by `library.py`, and by people through `__main__.py`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
FOLDER = Path(__file__).with_name("_built")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared")
WIDE = ("-mprefer-vector-width=512",)  # only x86 knows it
_DIGEST_BYTES = 32


def path_here(folder: Path = FOLDER) -> Path:
    """Return where the library for this machine is, or would be."""
    about = hashlib.sha256(SOURCE.read_bytes())
    about.update(repr((FLAGS, WIDE, platform.machine(), _cpu())).encode())
    return folder / f"kernels-{about.hexdigest()[:20]}.so"


def is_whole(path: Path) -> bool:
    """Tell whether a library is there as it was built. Reads all of it: less than a ms."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content[-_DIGEST_BYTES:] == _digest(content[:-_DIGEST_BYTES])


def build(folder: Path = FOLDER) -> tuple[Path, str]:
    """Build the library for this machine, unless it is there; return it, and why not."""
    path = path_here(folder)
    if is_whole(path):
        return path, ""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        return path, f"there is no C compiler ({compiler[0]})"
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / "made.so"
            why = _compile(compiler, made)
            if why:
                return path, why
            made.write_bytes((content := made.read_bytes()) + _digest(content))
            ctypes.CDLL(str(made))  # it loads
            made.rename(path)
    except OSError as error:
        return path, f"{error}: is there room, and may you write into {folder.parent}?"
    return path, ""


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _compile(compiler: list[str], made: Path) -> str:
    """Compile the source; return what was wrong."""
    flags = (*FLAGS, *(WIDE if platform.machine() in ("x86_64", "AMD64") else ()))
    command = [*compiler, *flags, "-o", str(made), str(SOURCE), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    return "\n    ".join(["the C compiler failed", *done.stderr.splitlines()[:10]])


def _cpu() -> str:
    """Return what instructions this CPU has, in words; "" where the system does not say."""
    if sys.platform != "linux":
        return platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
