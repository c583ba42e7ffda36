"""How the processes of a plan come and go: `local` starts them on this machine, `inline` puts all
of them into one loop (tests, and looking at a topology with a debugger). Here is what a process and
whoever started it must agree on.

Knows nothing of roles or records.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

REFUSED = b"refused: "  # what a process says to its launcher when a restart would end the same way
STACKS = signal.SIGUSR1


def stacks_folder(folder: Path, attempt: int | str) -> Path:
    """Return where the processes of an attempt write their stacks."""
    return folder / "attempts" / str(attempt) / "stacks"


def stacks_path(stacks: Path, slot: str) -> Path:
    """Return the file of one process."""
    return stacks / f"{slot.replace('/', '-')}.txt"


def writes_stacks(path: Path, pid: int) -> bool:
    """Tell whether this process has said in its file that it writes its stacks when signalled.

    Before that the signal would end it.
    """
    told = f", process {pid}\n".encode()
    with contextlib.suppress(OSError), path.open("rb") as file:
        return any(line.startswith(b"# ") and line.endswith(told) for line in file)
    return False
