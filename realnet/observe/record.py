"""The record of a run: metrics.jsonl, events.jsonl, and who was busy when.

One writer, the head. Rows are lines of JSON, written as they come, so that a killed run leaves
whole lines. While the disk is full they wait in memory: the run goes on. Knows nothing of what the
rows mean. Views and reports read `Busy` and the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from realnet.observe.startup import Startup, startup_path

Row = dict[str, Any]
HOP_S = 0.002
MAX_SPANS = 20_000
MAX_WAITING = 4 * 2**20  # bytes of rows that wait for room on the disk; later ones are lost


class Busy:
    """When each actor's compute was busy, as merged spans of monotonic seconds."""

    def __init__(self) -> None:
        self._gap_s: dict[str, float] = {}
        self.spans: dict[str, list[tuple[float, float]]] = {}
        self.seconds: dict[str, dict[str, float]] = {}  # actor -> label -> seconds

    def add(self, actor: str, spans: Iterable[tuple[float, float, str]]) -> None:
        """Note spans; they come in order for each actor."""
        mine = self.spans.setdefault(actor, [])
        for start_s, end_s, label in spans:
            by_label = self.seconds.setdefault(actor, {})
            by_label[label] = by_label.get(label, 0.0) + end_s - start_s
            # Gaps below 2 ms are the hop between thread and loop, not idleness.
            if mine and start_s - mine[-1][1] < self._gap_s.get(actor, HOP_S):
                mine[-1] = (mine[-1][0], max(mine[-1][1], end_s))
            else:
                mine.append((start_s, end_s))
        while len(mine) > MAX_SPANS:
            self._coarsen(actor, mine)

    def _coarsen(self, actor: str, mine: list[tuple[float, float]]) -> None:
        """A long run: forget ever longer gaps, so that the list stays bounded."""
        gap_s = self._gap_s[actor] = 2 * self._gap_s.get(actor, HOP_S)
        merged = mine[:1]
        for start_s, end_s in mine[1:]:
            if start_s - merged[-1][1] < gap_s:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
            else:
                merged.append((start_s, end_s))
        mine[:] = merged

    def role(self, role: str, since_s: float = 0.0) -> list[tuple[float, float]]:
        """Return the union of the spans of all instances of a role."""
        spans = [
            (max(a, since_s), b)
            for actor, mine in self.spans.items()
            if actor.rpartition("/")[0] == role
            for a, b in mine
            if b > since_s
        ]
        return union(spans)


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Merge overlapping spans."""
    merged: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    return merged


def total_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that merged spans cover."""
    return sum(b - a for a, b in spans)


def both(
    left: list[tuple[float, float]], right: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return where two lists of merged spans overlap."""
    out, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        start_s, end_s = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start_s < end_s:
            out.append((start_s, end_s))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return out


class Lines:
    """One file of lines. What cannot be written now waits, and is tried with the next line."""

    def __init__(self, path: Path):
        self.path = path
        self.trouble: OSError | None = None
        self._file = path.open("ab", buffering=0)
        self._waiting = b"" if _ends_whole(path) else b"\n"

    def write(self, line: bytes) -> None:
        """Write a line, or keep it."""
        if len(self._waiting) + len(line) <= MAX_WAITING:
            self._waiting += line
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._waiting = self._waiting[written or 0 :]
            self.trouble = None
        except OSError as error:
            self.trouble = error

    def close(self) -> None:
        """Try what waits once more, then close."""
        self.write(b"")
        self._file.close()


def _ends_whole(path: Path) -> bool:
    """Return False after a killed writer's torn line, which must not swallow the next one."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"


class Record:
    """Writes the rows of a run and hands them to whoever watches."""

    def __init__(self, folder: Path, started_s: float, attempt: int):
        self._files: dict[str, Lines] = {
            kind: Lines(folder / f"{name}.jsonl")
            for kind, name in (("metrics", "metrics"), ("event", "events"))
        }
        self.started_s = started_s
        self._attempt = attempt
        self.busy = Busy()
        self.startup = Startup(startup_path(folder, attempt), started_s)
        self.watchers: list[Callable[[str, Row], None]] = []

    def write(self, actor: str, kind: str, time_s: float, row: Row) -> None:
        """Write one row; `time_s` is monotonic and is stored relative to the run's start."""
        full: Row = {
            "time_s": round(time_s - self.started_s, 3),
            "attempt": self._attempt,
            "actor": actor,
            **row,
        }
        file = self._files.get(kind)
        if file is not None:
            before = file.trouble
            file.write(json.dumps(full).encode() + b"\n")
            if file.trouble is not None and before is None:
                self._tell(
                    f"{file.path} cannot be written ({file.trouble.strerror}): free some space; "
                    "its rows wait in memory",
                    full["time_s"],
                )
        for watcher in self.watchers:
            watcher(kind, full)

    def _tell(self, text: str, time_s: float) -> None:
        """Tell whoever watches, though it cannot be written."""
        row = {"time_s": time_s, "attempt": self._attempt, "actor": "head/0", "text": text}
        for watcher in list(self.watchers):
            watcher("event", row)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a jsonl file; a torn last line (a killed writer) is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
