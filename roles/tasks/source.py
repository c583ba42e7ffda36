"""Rows of a task: from a file of JSON lines, or made on the spot, here or by somebody's own code.

Knows what a `data` reference means. Knows nothing of prompts, order or rewards. Called by
`dataset.py`.
"""

from __future__ import annotations

import functools
import importlib
from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from realnet.errors import ConfigError, LostReference, listed, nearest
from realnet.references import CodeReference, parse_reference
from realnet.roles.tasks.hubrows import HubRows
from realnet.roles.tasks.rowtext import decoded, parse_line
from realnet.roles.tasks.template import describe, near_file
from realnet.topology.kinds import load_object

# name in "new:NAME" = the module, or an object in one, that makes its rows
MADE: dict[str, str] = {
    "addz": "realnet.roles.tasks.addz",
    "maxz": "realnet.roles.tasks.columnz:MAXZ",
    "modz": "realnet.roles.tasks.columnz:MODZ",
    "chainz": "realnet.roles.tasks.chainz:TRAINED",
    "chainz_unseen": "realnet.roles.tasks.chainz:UNSEEN",
}


class Maker(Protocol):
    """What makes problems: a module of this folder, or an object that "file.py:name" names.

    `demo` is needed for a warm start only.
    """

    def row(self, seed: int, k: int, *, held_out: bool) -> dict[str, str]:
        """Return the k-th row; held-out rows are never among the others."""
        ...

    def demo(self, seed: int, k: int, progress: float) -> tuple[str, str]:
        """Return the k-th demonstration (prompt, response), at this share of the warm start."""
        ...


class Source(Protocol):
    """Rows by number. `count` is None when there is no end to them."""

    count: int | None

    def row(self, index: int, *, held_out: bool) -> dict[str, str]:
        """Return one row, every value as text."""
        ...

    def name(self, index: int) -> str:
        """Return how a person finds this row."""
        ...


class JsonLines:
    """A file with one JSON object a line. Blank lines are skipped."""

    def __init__(self, path: Path, where: str) -> None:
        """Read and check the whole file. Raises ConfigError naming file and line."""
        self.path = path
        self._rows: list[dict[str, str]] = []
        self._lines: list[int] = []
        try:
            data = path.read_bytes()
        except OSError as error:
            raise LostReference(
                f"{where}.data: cannot read {path}: {describe(error)}.{near_file(path)}"
                " It is taken relative to the topology's folder."
            ) from None
        for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), start=1):
            if line.strip():
                place = f"{where}.data: {path} line {number}"
                self._rows.append(parse_line(decoded(line, place), place))
                self._lines.append(number)
        if not self._rows:
            raise ConfigError(f"{where}.data: {path} has no rows: one JSON object a line is needed")
        self.count: int | None = len(self._rows)

    def row(self, index: int, *, held_out: bool) -> dict[str, str]:
        """Return the row at `index`. A file has no held-out part: another file is."""
        del held_out
        return self._rows[index]

    def name(self, index: int) -> str:
        """Return file and line."""
        return f"{self.path.name} line {self._lines[index]}"

    def require(self, columns: Iterable[str], where: str, what: str) -> None:
        """Raise ConfigError, naming line and nearest column, when a row lacks one of these."""
        for column in columns:
            for row, line in zip(self._rows, self._lines, strict=True):
                if column not in row:
                    raise ConfigError(
                        f"{where}: {what} needs the column {column!r}, which {self.path} line "
                        f"{line} does not have, or has as null.{nearest(column, row)} "
                        f"It has: {listed(row)}"
                    )


class MadeRows:
    """Rows from a maker: as many as wanted, from a seed."""

    count: int | None = None

    def __init__(self, reference: str, seed: int, base: Path, where: str) -> None:
        self._reference, self._seed = reference, seed
        self.maker = made(reference, base, where)
        _try(self.maker, reference, where)

    def row(self, index: int, *, held_out: bool) -> dict[str, str]:
        """Return the index-th row of the training or of the held-out problems."""
        return self.maker.row(self._seed, index, held_out=held_out)

    def name(self, index: int) -> str:
        """Return the reference and the number that make this row again."""
        return f"{self._reference} seed {self._seed} row {index}"

    def require(self, columns: Iterable[str], where: str, what: str) -> None:
        """Raise ConfigError when the rows made here lack one of these columns."""
        row = self.row(0, held_out=False)
        for column in columns:
            if column not in row:
                raise ConfigError(
                    f"{where}: {what} needs the column {column!r}, which {self._reference} does "
                    f"not make.{nearest(column, row)} It makes: {listed(row)}"
                )


def is_made(reference: str) -> bool:
    """Tell whether this is made on the spot, by "new:NAME" or by somebody's own code."""
    if reference.startswith("new:"):
        return True
    try:
        return isinstance(parse_reference(reference), CodeReference)
    except ValueError:
        return False


def made(reference: str, base: Path, where: str) -> Maker:
    """Return what makes the rows of "new:KIND" or "file.py:name". Raises ConfigError."""
    kind = reference.removeprefix("new:")
    if kind == reference:
        own: Maker = _own(reference, base, where)
        return own
    if kind not in MADE:
        raise LostReference(
            f'{where}.data = "new:{kind}": no such made task.{nearest(kind, MADE)} '
            f"There are: {listed(f'new:{name}' for name in MADE)}"
        )
    place, _, name = MADE[kind].partition(":")
    module: Any = importlib.import_module(place)
    maker: Maker = getattr(module, name) if name else module
    return maker


@functools.lru_cache(maxsize=64)  # a warm start asks for each of its demonstrations
def _own(reference: str, base: Path, where: str) -> Any:
    """Load somebody's own maker: an object, or a class of which one is made."""
    found: Any = load_object(reference, base, f"{where}.data")
    return found() if isinstance(found, type) else found


def _try(maker: Maker, reference: str, where: str) -> None:
    """Make the first row, and refuse what is none."""
    try:
        row = maker.row(0, 0, held_out=False)
    except Exception as error:  # whatever somebody's code raises
        raise ConfigError(
            f'{where}.data = "{reference}": it needs a method row(seed, k, *, held_out) that '
            f"returns a row of texts; calling it raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(row, dict) or any(not isinstance(v, str) for v in row.values()):
        raise ConfigError(
            f'{where}.data = "{reference}": row(0, 0, held_out=False) returned {row!r}: a dict of '
            'texts is needed, {"question": "...", "answer": "..."}'
        )


Rows = JsonLines | HubRows | MadeRows


def open_source(reference: str, seed: int, base: Path, where: str) -> Rows:
    """Return the rows that a `data` reference means. Raises ConfigError."""
    if is_made(reference):
        return MadeRows(reference, seed, base, where)
    if reference.startswith("hf:"):
        return HubRows(reference, base, where)
    if not reference.endswith((".jsonl", ".json")):
        raise ConfigError(
            f"{where}.data = {reference!r}: not a reference to data. Write a file of JSON lines, "
            f'"./data/train.jsonl", a made task: {listed(f"new:{name}" for name in MADE)}, or your '
            'own code that makes them, "file.py:name"'
        )
    return JsonLines(base / reference, where)
