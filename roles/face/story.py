"""What a run's folder tells: rows, samples, busy spans, books, plan. Read once, for the report.

A run that was stopped early, killed, or has not begun lacks files, and a killed writer leaves a
torn line: what is not there is empty here, and nothing raises. Knows files, not pictures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from realnet.errors import RunFolderError
from realnet.observe.record import union
from realnet.roles.face import words
from realnet.roles.face.overlap import Overlap, Spans, measure
from realnet.roles.face.rows import Row, Rows, number
from realnet.roles.samples import GREEDY, SAMPLED, decoding_of
from realnet.topology.plan import Plan, read_plan

_STOPPING = "stopping: "
_TEXT_BYTES = 200_000


class Pair(NamedTuple):
    """The answers to one problem at the first and at the last evaluation that kept it."""

    task: str
    prompt: str
    answer: str
    first: Row
    last: Row
    greedy: tuple[Row, ...] = ()  # the same two of answers without chance


class Story:
    """One run, as its folder tells it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = _plan(folder)
        self.shared: dict[str, Any] = dict(self.plan.shared) if self.plan else {}
        policy, *others = words.policies_of(self.plan) or [""]
        self.rows = Rows(words.foreign_to(self.plan, policy) if others else ())
        self.others = {other: Rows(words.foreign_to(self.plan, other)) for other in others}
        for rows in (self.rows, *self.others.values()):
            rows.add_all("metrics", _lines(folder / "metrics.jsonl"))
            rows.add_all("event", _lines(folder / "events.jsonl"))
        self.samples = [row for row in _lines(folder / "samples.jsonl") if isinstance(row, dict)]
        busy = _object(folder / "busy.json")
        self.spans = {str(k): _spans(v) for k, v in _dict(busy.get("spans")).items()}
        self.seconds = {
            str(actor): {str(k): s for k in by if (s := number(by, k)) is not None and s > 0}
            for actor, by in _dict(busy.get("seconds")).items()
            if isinstance(by, dict)
        }
        self.book = _object(folder / (policy if others else "") / "ledger.json")
        self.topology = _text(folder / "topology.toml")

    @property
    def title(self) -> str:
        """Return the topology's title, or the name of the folder."""
        return self.plan.title if self.plan else self.folder.resolve().name

    def role(self, kind: str) -> Spans:
        """Return when any instance of the role of this kind was busy, in the last attempt."""
        name = words.role_of(self.plan, kind)
        return union(
            span
            for actor, spans in self.spans.items()
            if actor.rpartition("/")[0] == name
            for span in spans
        )

    def overlap(self) -> Overlap | None:
        """Return how far generation and training overlapped, in the last attempt."""
        return measure(self.role("generator"), self.role("trainer"), self.rows.window())

    def tickets(self) -> dict[str, int]:
        """Return the ledger's counts: of the closed books, unless rows are newer."""
        live, counts = self.rows.tickets(), _dict(self.book.get("counts"))
        closed = {str(k): int(n) for k in counts if (n := number(counts, k)) is not None}
        return closed if closed.get("issued", -1) >= live.get("issued", 0) else live

    def ending(self) -> str:
        """Return how the last attempt ended, in the head's words; "" when it did not say."""
        last = max(self.rows.ended_s, default=1)
        for event in reversed(self.rows.events):
            text = str(event.get("text", ""))
            if text.startswith(_STOPPING) and event.get("attempt", 1) == last:
                return text.removeprefix(_STOPPING)
        return ""

    def origin(self) -> str:
        """Return the run and version whose weights this one began with, "" for none."""
        return next((str(e["origin"]) for e in self.rows.events if "origin" in e), "")

    def outcome(self) -> str:
        """Return the run in one sentence."""
        rows = self.rows
        gains = [
            f"{task} pass@1 went from {found[0].share:.2f} to {found[-1].share:.2f}"
            for task in rows.tasks()
            if len(found := rows.measured(task)) > 1
        ]
        if not rows.steps:
            return "No training step was finished."
        steps = f"{rows.step} step{'s' if rows.step != 1 else ''}"
        took = f"{steps} and {words.duration(rows.wall_s)}"
        return f"{'; '.join(gains)} in {took}." if gains else f"Trained for {took}."

    def notes(self) -> list[Row]:
        """Return the events, without the evaluations: these are in the curves."""
        return [e for e in self.rows.events if not ("task" in e and "step" in e)]

    def pairs(self, most: int = 4) -> list[Pair]:
        """Return up to `most` problems of each task, with the first and the last answer."""
        found: dict[tuple[str, str], dict[str, list[Row]]] = {}
        for row in sorted(self.samples, key=lambda r: number(r, "step") or 0.0):
            key = (str(row.get("task", "")), str(row.get("prompt", "")))
            if number(row, "step") is not None:
                found.setdefault(key, {}).setdefault(decoding_of(row), []).append(row)
        kept: dict[str, list[Pair]] = {}
        for (task, prompt), ways in found.items():
            greedy = ways.get(GREEDY, [])
            rows = ways.get(SAMPLED) or greedy
            beside = (greedy[0], greedy[-1])[: len(greedy)] if rows is not greedy and greedy else ()
            answer = str(rows[-1].get("answer", ""))
            kept.setdefault(task, []).append(Pair(task, prompt, answer, rows[0], rows[-1], beside))
        for pairs in kept.values():
            pairs.sort(key=lambda pair: number(pair.last, "problem") or 0.0)
        return [pair for task in sorted(kept) for pair in kept[task][:most]]


def _plan(folder: Path) -> Plan | None:
    try:
        return read_plan(folder)
    except (RunFolderError, OSError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:_TEXT_BYTES].decode("utf-8", errors="replace")
    except OSError:
        return ""


def _lines(path: Path) -> list[Any]:
    """Return the rows of a jsonl file, without lines that are torn."""
    found = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
    except OSError:
        return found
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return _dict(json.loads(path.read_text(encoding="utf-8", errors="replace")))
    except (OSError, ValueError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _spans(value: Any) -> Spans:
    found = []
    for pair in value if isinstance(value, list) else []:
        if isinstance(pair, list) and len(pair) == 2:
            row = {"a": pair[0], "b": pair[1]}
            a, b = number(row, "a"), number(row, "b")
            if a is not None and b is not None and a < b:
                found.append((a, b))
    return found


def shareable(text: str) -> str:
    """Return a topology's text without environment and secrets: a report is given to others."""
    return re.sub(
        r"(?im)^(\s*(?:env|secrets|\S*(?:secret|password|api_key)\S*)\s*=\s*).*$", r"\1…", text
    )
