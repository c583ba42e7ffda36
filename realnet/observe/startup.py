"""How long an attempt took to begin: attempts/<n>/startup.json, when each part of it was over.

    {"wall_s": 1764000000.0, "parts": {"agents": 1.2, "preflight": 1.3, "processes": 3.1}}

`wall_s` is the clock of the head's host when the head began; a part's number is how many seconds
after that it was over. Knows nothing of what the parts are. Written by `run.py`, `head.py` and
`launch/hosts.py`; read by `realnet startup`.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import NamedTuple


class Began(NamedTuple):
    """What startup.json says."""

    wall_s: float
    parts: dict[str, float]


class Startup:
    """The parts of one attempt's beginning, each told once. Without a path it is not written."""

    def __init__(self, path: Path | None, started_s: float):
        self._path = path
        self._started_s = started_s
        self._began = Began(time.time(), {})

    def over(self, part: str, now_s: float) -> None:
        """A part is over, for the first time."""
        if part not in self._began.parts:
            self._began.parts[part] = round(now_s - self._started_s, 3)
            if self._path is not None:
                with contextlib.suppress(OSError):  # a full disk: nobody needs it to go on
                    self._path.write_text(json.dumps(self._began._asdict()), encoding="utf-8")


def startup_path(folder: Path, attempt: int) -> Path:
    """Return where an attempt says how it began."""
    return folder / "attempts" / str(attempt) / "startup.json"


def read_startup(folder: Path, attempt: int) -> Began | None:
    """Return how an attempt began; None if it does not say."""
    try:
        return Began(**json.loads(startup_path(folder, attempt).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
