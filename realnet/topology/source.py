"""The text of a topology: TOML files merged along `extends`, and where each value came from.

Sections ([run], [policy], [tasks.X], [roles.X], ...) merge, values replace whole, `x = false`
removes, `like = "X"` copies a sibling. `extends` names a file beside this one or a topology that
ships with realnet.

Knows nothing of role classes or what the keys mean. Called by `resolve.py`.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from realnet.errors import ConfigError, listed, nearest

NAMED = ("policies", "tasks", "roles", "pools")  # tables of named sections
PLAIN = ("run", "policy", "wires")
TOP = ("extends", "title", *PLAIN, *NAMED)
MAX_DEPTH = 8


@dataclass
class Source:
    """The merged tables. `origin` maps a dotted path to the file that wrote it."""

    path: Path
    title: str
    tables: dict[str, Any]
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The folder that relative references start from."""
        return self.path.parent

    def locate(self, complaint: str) -> str:
        """Put the file in front of a complaint that begins with "[table].key"."""
        match = re.match(r"\[([\w.]+)\](?:\.(\w+))?", complaint)
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


def all_shipped() -> list[str]:
    """Return the names of the topologies that ship with realnet."""
    folder = Path(str(resources.files("realnet") / "topologies"))
    return sorted(p.stem for p in folder.glob("*.toml"))


def shipped(name: str) -> Path | None:
    """Return the path of a topology that ships with realnet, or None."""
    folder = Path(str(resources.files("realnet") / "topologies"))
    path = folder / (name if name.endswith(".toml") else f"{name}.toml")
    return path if path.is_file() else None


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Read a topology and everything it extends; apply `table.key=value` overrides.

    Raises ConfigError for a file that is missing or not TOML, an unknown section, a `like` or
    `extends` that leads nowhere.
    """
    path = Path(path)
    if not path.is_file():
        known = shipped(str(path))
        if known is None:
            raise ConfigError(
                f"{path}: no such topology file.{_beside(path, all_shipped())} "
                f"With realnet come: {listed(all_shipped())}"
            )
        path = known
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file, tables in _lineage(path.resolve(), 0):
        _merge(merged, tables, file.name, origin)
    for override in overrides:
        _override(merged, override, origin)
    _copy_siblings(merged, origin, path.name)
    title = str(merged.pop("title", path.stem))
    if "/" in title or not title.strip(". "):
        raise ConfigError(
            f"{origin.get('title', path.name)}: title = {title!r}: the run's folder is named after "
            "it, so it is a name without /"
        )
    return Source(path.resolve(), title, merged, origin)


def _beside(path: Path, more: Sequence[str] = ()) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    return nearest(path.name, [*more, *(p.name for p in folder.glob("*.toml"))])


def _lineage(path: Path, depth: int) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files from the most basic one to this one."""
    if depth > MAX_DEPTH:
        raise ConfigError(
            f"{path.name}: `extends` goes deeper than {MAX_DEPTH} files: is it a loop?"
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for key in tables:
        if key not in TOP:
            raise ConfigError(
                f"{path.name}: [{key}]: no such table.{nearest(key, TOP)} "
                f"A topology has: {listed(TOP)}"
            )
    parent = tables.pop("extends", None)
    if parent is None:
        return [(path, tables)]
    beside = path.parent / str(parent)
    found = beside if beside.is_file() else shipped(str(parent))
    if found is None or found.resolve() == path:
        raise ConfigError(
            f'{path.name}: extends = "{parent}": no file of that name beside it, and no topology '
            f"that ships with realnet.{_beside(beside, all_shipped())}"
        )
    return [*_lineage(found.resolve(), depth + 1), (path, tables)]


def _merge(into: dict[str, Any], tables: dict[str, Any], file: str, origin: dict[str, str]) -> None:
    for top, value in tables.items():
        if top in NAMED:
            sections = into.setdefault(top, {})
            _want_table(value, f"{file}: [{top}]")
            for name, section in value.items():
                if section is False:
                    sections.pop(name, None)
                else:
                    _want_table(section, f"{file}: [{top}.{name}]")
                    _merge_section(
                        sections.setdefault(name, {}), section, f"{top}.{name}", file, origin
                    )
        elif top in PLAIN:
            _want_table(value, f"{file}: [{top}]")
            _merge_section(into.setdefault(top, {}), value, top, file, origin)
        else:
            into[top] = value
            origin[top] = file


def _merge_section(
    into: dict[str, Any], section: dict[str, Any], path: str, file: str, origin: dict[str, str]
) -> None:
    origin[path] = file
    for key, value in section.items():
        # `false` removes what a file below wrote; for a key that nobody wrote it is a value.
        if value is False and key in into:
            del into[key]
            origin.pop(f"{path}.{key}", None)
        else:
            into[key] = value
            origin[f"{path}.{key}"] = file


def _want_table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table, not {value!r}")


def _override(tables: dict[str, Any], text: str, origin: dict[str, str]) -> None:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or keys[0] not in TOP:
        hint = f" Did you mean roles.{text}?" if keys[0] in tables.get("roles", {}) else ""
        raise ConfigError(
            f"--set {text}: write table.key=value, for example run.until.steps=5.{hint}"
        )
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value
    table = tables
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text}: {key} is not a table")
    if parsed is False and keys[-1] in table:
        del table[keys[-1]]  # as in a file
    elif len(keys) == 2 and keys[0] in NAMED and not isinstance(parsed, dict):
        raise ConfigError(f"--set {text}: [{path.strip()}] is a table; set a key of it")
    else:
        table[keys[-1]] = parsed
    origin[".".join(keys)] = "--set"


def _copy_siblings(tables: dict[str, Any], origin: dict[str, str], file: str) -> None:
    for top in NAMED:
        sections: dict[str, Any] = tables.get(top, {})
        for name, section in list(sections.items()):
            seen = [name]
            while "like" in section:
                model = section.pop("like")
                if model not in sections or model in seen:
                    raise ConfigError(
                        f'{origin.get(f"{top}.{name}", file)}: [{top}.{name}].like = "{model}": '
                        f"no such section beside it.{nearest(str(model), sections)}"
                    )
                seen.append(model)
                section = {**copy.deepcopy(sections[model]), **section}
                for key in section:
                    origin.setdefault(
                        f"{top}.{name}.{key}", origin.get(f"{top}.{model}.{key}", file)
                    )
            sections[name] = section
