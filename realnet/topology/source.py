"""The text of a topology: TOML files along `extends`, merged, and where each value came from.

`extends` names a file beside this one or a topology that ships with realnet; how the tables of one
go over those of another is in `merge.py`. A complaint is told with the file that wrote its key, and
each cause once.

Knows nothing of role classes or what the keys mean. Called by `resolve.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from realnet.errors import ConfigError, listed, nearest
from realnet.topology.merge import NAMED, PLAIN, Merge, quoted
from realnet.topology.overrides import apply_overrides
from realnet.topology.tomltext import read_toml

A_FOLDER_NAME = "a name without /, not of dots only, on one line, of at most 100 letters"


def names_a_folder(name: str) -> bool:
    """Tell whether a run's folder may be called so; `A_FOLDER_NAME` says what may be."""
    return bool(name.strip(". ")) and "/" not in name and name.isprintable() and len(name) <= 100


@dataclass
class Source:
    """The merged tables. `origin` maps a dotted path to the file that wrote it.

    `copied` maps a section to the sibling it is `like`, `broken` are those whose `like` failed.
    `extended` are the names of the files below this one. `problems` are mistakes of the text;
    `resolve` tells them with its own.
    """

    path: Path
    title: str
    tables: dict[str, Any]
    origin: dict[str, str] = field(default_factory=dict)
    copied: dict[str, str] = field(default_factory=dict)
    extended: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    @property
    def base(self) -> Path:
        """The folder that relative references start from."""
        return self.path.parent

    def locate(self, complaint: str) -> str:
        """Put the file in front of a complaint that begins with "[table].key"."""
        match = re.match(r"\[([\w.-]+)\](?:\.([\w-]+))?", complaint)
        if match is None:
            return complaint
        key = f"{match[1]}.{match[2]}"
        if match[2] and key in self.origin:
            return f"{self.origin[key]}: {complaint}"
        return f"{self.where(match[1]).partition(':')[0]}: {complaint}"

    def where(self, *path: str) -> str:
        """Return 'file: [table]' for an error about this path."""
        dotted = ".".join(path)
        file = self.origin.get(dotted)
        if file is None:  # the file that wrote most of that section: the last that touched it
            inside = [o for p, o in self.origin.items() if p.startswith(dotted + ".")]
            file = inside[-1] if inside else self.path.name
        return f"{file}: [{dotted}]"

    def tell(self, complaints: Sequence[str]) -> list[str]:
        """Return the complaints with the file that wrote each key, and each cause only once.

        A mistake in a section that others are `like` is told where it was written, not in every
        copy.
        """
        told: dict[str, None] = {}
        seen: set[str] = set()
        bare = [self._bare(c) for c in complaints]
        for complaint, (table, rest) in zip(complaints, bare, strict=True):
            original = model = table
            while model in self.copied:
                model = self.copied[model]
                if (model, rest) in bare:
                    original = model
            if table in self.broken and ("is missing" in rest or "no role kind is" in rest):
                continue  # its `like` would have brought it
            key = f"[{original}]{rest}" if table else complaint
            if key not in seen:
                seen.add(key)
                told[self._told(key, complaint if original == table else "")] = None
        return list(told)

    def _told(self, key: str, complaint: str) -> str:
        """Return a complaint with its file: of the key, or as it was told, or of the table."""
        match = re.match(r"\[([\w.-]+)\]\.([\w-]+)", key)
        if match and f"{match[1]}.{match[2]}" in self.origin:
            return self.locate(key)
        return complaint if complaint and not complaint.startswith("[") else self.locate(key)

    @staticmethod
    def _bare(complaint: str) -> tuple[str, str]:
        """Return the table that a complaint is about, and what follows its name."""
        match = re.match(r"(?:[^\[\n:]*: )?\[([\w.-]+)\](.*)", complaint, re.DOTALL)
        return (match[1], match[2]) if match else ("", complaint)


def all_shipped() -> list[str]:
    """Return the names of the topologies that ship with realnet."""
    folder = Path(str(resources.files("realnet") / "topologies"))
    return sorted(p.stem for p in folder.glob("*.toml"))


def shipped(name: str) -> Path | None:
    """Return the path of a topology that ships with realnet, or None."""
    folder = Path(str(resources.files("realnet") / "topologies"))
    path = folder / (name if name.endswith(".toml") else f"{name}.toml")
    return path if path.is_file() else None


def read_source(path: Path, overrides: Sequence[str] = (), runs: Path = Path("runs")) -> Source:
    """Read a topology and everything it extends; apply `table.key=value` overrides.

    `run:NAME` is a run under `runs`; in the tables it stands with its folder.

    Raises ConfigError for a file that is missing or not TOML, and for an `extends` that leads
    nowhere: then nothing more can be said. Everything else that is wrong with the text is in
    `problems`.
    """
    path = Path(path)
    if not path.is_file():
        known = shipped(str(path))
        if known is None and path.is_dir():
            inside = [p.name for p in path.glob("*.toml") if p.is_file()]
            raise ConfigError(f"{path} is a folder. Name a topology file; it has: {listed(inside)}")
        if known is None:
            raise ConfigError(
                f"{path}: no such topology file.{_beside(path, all_shipped())} "
                f"With realnet come: {listed(all_shipped())}"
            )
        path = known
    path = path.resolve()
    merge = Merge(path)
    files = _lineage(path, ())
    for file, tables in files:
        merge.add(file, tables)
    problems = merge.problems
    problems += apply_overrides(merge.tables, merge.origin, overrides, PLAIN, NAMED)
    merge.copy_siblings()
    _place_runs(merge.tables, runs)
    title = merge.tables.pop("title", path.stem)
    if not isinstance(title, str) or not names_a_folder(title):
        problems.append(
            f"{merge.origin.get('title', path.name)}: title = {quoted(title)}: the run's folder "
            f"is named after it: {A_FOLDER_NAME}"
        )
    names = tuple(file.name for file, _ in files[:-1])
    merged = (merge.tables, merge.origin, merge.copied)
    return Source(path, str(title), *merged, names, problems, merge.broken)


def _beside(path: Path, more: Sequence[str] = ()) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    return nearest(path.name, [*more, *(p.name for p in folder.glob("*.toml"))])


def _lineage(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files from the most basic one to this one."""
    if path in above:
        loop = " -> ".join(p.name for p in (*above, path))
        raise ConfigError(f"{above[0].name}: `extends` runs in a circle: {loop}")
    tables = read_toml(path)
    parent = tables.pop("extends", None)
    if parent is None:
        return [(path, tables)]
    beside = path.parent / str(parent)
    found = beside if beside.is_file() else shipped(str(parent))
    if not isinstance(parent, str) or found is None:
        meant = beside.with_name(f"{beside.name}.toml")
        guess = (
            f' Did you mean "{parent}.toml", which is beside it?'
            if meant.is_file()
            else _beside(beside, all_shipped())
        )
        raise ConfigError(
            f"{path.name}: extends = {quoted(parent)}: no file of that name beside it, and no "
            f"topology that ships with realnet.{guess} "
            f"With realnet come: {listed(all_shipped())}"
        )
    return [*_lineage(found.resolve(), (*above, path)), (path, tables)]


def _place_runs(tables: dict[str, Any], runs: Path) -> None:
    """Put folders for the names of runs: roles start elsewhere, and do not know where runs lie."""
    for key, value in tables.items():
        if isinstance(value, dict):
            _place_runs(value, runs)
        elif isinstance(value, str) and (match := re.fullmatch(r"run:([^/:@\s]+)(@\w+)?", value)):
            tables[key] = f"run:{(runs / match[1]).resolve()}{match[2] or ''}"
