"""The folder of a run: what is in it, who may write it, which attempt this is.

    runs/<name>/
      topology.toml  plan.json        as run
      attempts/<n>/logs/<slot>.log    `latest` points to the last attempt
      events.jsonl  metrics.jsonl  samples.jsonl
      journal/  checkpoints/
      report.html

One head at a time: a lock that vanishes with its process. Knows nothing of what roles put there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

from realnet.errors import RunFolderError


class RunFolder:
    """One run's folder, locked by this process until `close`."""

    def __init__(self, path: Path, *, resumed: bool):
        self.path = path.resolve()
        self.resumed = resumed
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"the run's folder {self.path} cannot be made: {error.strerror}. "
                "--runs says where runs go"
            ) from None
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise RunFolderError(
                f"{self.path} is in use by a run that is going on; give this one another name "
                "(--name), or stop that one first"
            ) from None
        attempts = self.path / "attempts"
        attempts.mkdir(exist_ok=True)
        self.attempt = 1 + max(
            (int(p.name) for p in attempts.iterdir() if p.name.isdigit()), default=0
        )
        self.logs = attempts / str(self.attempt) / "logs"
        self.logs.mkdir(parents=True)
        latest = attempts / "latest"
        with contextlib.suppress(FileNotFoundError):
            latest.unlink()
        latest.symlink_to(str(self.attempt))
        # Sockets are not in the run's folder: it may be long, or on a file system without them.
        self._clear_old_sockets()
        self.sockets = Path(tempfile.mkdtemp(prefix="realnet-"))
        (self.path / ".sockets").write_text(str(self.sockets))

    def _clear_old_sockets(self) -> None:
        """A killed head leaves its sockets; nobody else can hold them, since we have the lock."""
        note = self.path / ".sockets"
        if note.is_file():
            old = Path(note.read_text().strip())
            if old.name.startswith("realnet-") and old.is_dir():
                shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Remove the sockets and unlock."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (self.path / ".sockets").unlink()
        os.close(self._lock)


def new_name(runs: Path, title: str) -> str:
    """Return the title, or title-2, title-3 ...: a name under `runs` that is not taken."""
    name, number = title, 1
    while (runs / name).exists():
        number += 1
        name = f"{title}-{number}"
    return name


def newest_run(runs: Path, title: str) -> Path:
    """Return the folder of the newest run of this title. Raises RunFolderError."""
    # By what the plan says: a folder "gsm8k-smoke" is of another topology than "gsm8k".
    found = [p.parent for p in runs.glob("*/plan.json") if _title_of(p) == title]
    if not found:
        raise RunFolderError(f"there is no run of {title!r} under {runs} to resume")
    return max(found, key=lambda p: (p / "plan.json").stat().st_mtime)


def _title_of(plan: Path) -> str:
    try:
        return str(json.loads(plan.read_bytes())["title"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
