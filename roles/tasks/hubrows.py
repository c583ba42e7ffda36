"""Rows of a data set of the Hugging Face hub that was fetched: parquet, or lines of JSON.

Knows files; which ones they are is the hub library's knowledge. Called by `source.py`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path

from realnet.errors import ConfigError, listed, nearest
from realnet.roles.hub import locate_dataset
from realnet.roles.tasks.rowtext import as_row, decoded, parse_line


class HubRows:
    """All rows of one split, read at once."""

    def __init__(self, reference: str, base: Path, where: str) -> None:
        """Read the files. Raises LostReference when they were not fetched, ConfigError by row."""
        self._reference = reference
        self._rows: list[dict[str, str]] = []
        self._names: list[str] = []
        for path in locate_dataset(reference, base, f"{where}.data"):
            read = _parquet if path.suffix == ".parquet" else _lines
            for name, row in read(path, f"{where}.data: {reference}"):
                self._names.append(name)
                self._rows.append(row)
        if not self._rows:
            raise ConfigError(f"{where}.data: {reference} has no rows")
        self.count: int | None = len(self._rows)

    def row(self, index: int, *, held_out: bool) -> dict[str, str]:
        """Return the row at `index`. A split has no held-out part: another split is."""
        del held_out
        return self._rows[index]

    def name(self, index: int) -> str:
        """Return the file and the place in it."""
        return self._names[index]

    def require(self, columns: Iterable[str], where: str, what: str) -> None:
        """Raise ConfigError, naming row and nearest column, when a row lacks one of these."""
        for column in columns:
            for row, name in zip(self._rows, self._names, strict=True):
                if column not in row:
                    raise ConfigError(
                        f"{where}: {what} needs the column {column!r}, which {self._reference} "
                        f"({name}) does not have, or has as null."
                        f"{nearest(column, row)} It has: {listed(row)}"
                    )


def _lines(path: Path, where: str) -> Iterable[tuple[str, dict[str, str]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(BOM_UTF8) if number == 1 else line
            if text.strip():
                name = f"{path.name} line {number}"
                place = f"{where}: {name}"
                yield name, parse_line(decoded(text, place), place)


def _parquet(path: Path, where: str) -> Iterable[tuple[str, dict[str, str]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError(
            f"{where}: {path.name} is parquet, which needs pyarrow: pip install 'realnet-rl[train]'"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are these
        raise ConfigError(f"{where}: {path} does not read: {error}") from None
    for number, row in enumerate(table.to_pylist()):
        yield f"{path.name} row {number}", as_row(row)
