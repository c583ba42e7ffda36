"""How the processes of a plan come and go: `local` starts them on this machine, `inline` puts all
of them into one loop (tests, and looking at a topology with a debugger), `hosts` has the agents of
several machines start them. Here is what a process and whoever started it must agree on.

Knows nothing of roles or records.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Protocol

REFUSED = b"refused: "  # what a process says to its launcher when a restart would end the same way
STACKS = signal.SIGUSR1
ADDRESS = "REALNET_ADDRESS"  # where the processes of a host listen, in a run over several
NEARBY = "REALNET_NEARBY"  # the folder of their sockets for each other


class Exited(Protocol):
    """Called once with how a process ended. `refused`: it said itself that its configuration is
    wrong, and that a restart would end the same way. `lost`: its host is gone. `nowhere`: no host
    has room for it."""

    def __call__(
        self, how: str, refused: bool = False, lost: bool = False, nowhere: bool = False
    ) -> None: ...


class Launcher(Protocol):
    """How processes come and go: `launch/local.py`, `launch/inline.py`, `launch/hosts.py`."""

    def spawn(self, slot: str, incarnation: int, exited: Exited) -> int:
        """Start a process and return its pid; `exited(how)` is called once when it ends."""

    def kill(self, slot: str) -> None:
        """End a process at once. Only one that this launcher started."""

    def dump(self, slot: str) -> str:
        """Make a process write its stacks; return where it does, or "" if it cannot."""

    def alive(self) -> list[str]:
        """The slots whose process has not ended."""

    async def open_arena(self, slot: str, name: str, num_bytes: int) -> str:
        """Return the path of shared memory of the host of a slot; "" if that is the head's own."""


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
