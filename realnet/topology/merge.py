"""The tables of several topology files, merged: the most basic one first, then what extends it.

Sections merge, values replace whole, `x = false` removes, `like = "X"` copies a sibling. Who wrote
what is noted by key, and every mistake is collected. Paths in a file start from that file's folder,
also when another extends it.

Knows nothing of TOML or of what the keys mean. Called by `source.py`.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from realnet.errors import listed, nearest

NAMED = ("policies", "tasks", "roles", "pools")  # tables of named sections
PLAIN = ("run", "policy", "wires")
TOP = ("extends", "title", *PLAIN, *NAMED)


def quoted(value: Any) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


class Merge:
    """Tables of several files being merged, the most basic one first."""

    def __init__(self, top: Path):
        self.top = top
        self.tables: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        self.copied: dict[str, str] = {}
        self.problems: list[str] = []
        self.broken: set[str] = set()

    def add(self, file: Path, tables: dict[str, Any]) -> None:
        """Merge the tables of one file over what is there."""
        if file.parent != self.top.parent:
            tables = _rebased(tables, file.parent)
        for top, value in tables.items():
            if top not in TOP:
                self._unknown(top, value, file.name)
            elif top == "title":
                self.tables[top] = value
                self.origin[top] = file.name
            elif value is False:
                self.tables.pop(top, None)
                for gone in [p for p in self.origin if p == top or p.startswith(f"{top}.")]:
                    del self.origin[gone]
            elif not self._is_table(value, file.name, top):
                continue
            elif top in PLAIN:
                self._section(self.tables.setdefault(top, {}), value, top, file.name)
            else:
                self._sections(self.tables.setdefault(top, {}), value, top, file.name)

    def _unknown(self, top: str, value: Any, file: str) -> None:
        if isinstance(value, dict):
            what = f"[{top}]: no such table.{nearest(top, TOP)}"
        else:
            what = f"{top}: it stands above all tables, where only extends and title do."
            what += nearest(top, TOP) or " Move it below the [table] it belongs to."
        self.problems.append(f"{file}: {what} A topology has: {listed(TOP)}")

    def _sections(self, into: dict[str, Any], value: dict[str, Any], top: str, file: str) -> None:
        for name, section in value.items():
            path = f"{top}.{name}"
            if section is False:
                if name not in into:
                    self.problems.append(
                        f"{file}: [{top}].{name} = false: there is nothing of that name to remove."
                        f"{nearest(name, into)} [{top}] has: {listed(into)}"
                    )
                into.pop(name, None)
                for gone in [p for p in self.origin if p == path or p.startswith(path + ".")]:
                    del self.origin[gone]
            elif self._is_table(section, file, path):
                self._section(into.setdefault(name, {}), section, path, file)

    def _section(self, into: dict[str, Any], section: dict[str, Any], path: str, file: str) -> None:
        self.origin[path] = file
        for key, value in section.items():
            # `false` removes what a file below wrote; for a key that nobody wrote, or that was
            # true, it is a value.
            if value is False and not isinstance(into.get(key, False), bool):
                del into[key]
                self.origin.pop(f"{path}.{key}", None)
            elif value is False and path == "wires" and key not in into:
                self.problems.append(
                    f"{file}: [wires].{key} = false: there is no such wire to remove."
                    f"{nearest(key, into)} [wires] has: {listed(into)}"
                )
            else:
                into[key] = value
                self.origin[f"{path}.{key}"] = file

    def _is_table(self, value: Any, file: str, path: str) -> bool:
        if isinstance(value, dict):
            return True
        array = isinstance(value, list) and all(isinstance(v, dict) for v in value)
        said = "[[...]] makes a list" if array and value else f"not {value!r}"
        self.problems.append(f"{file}: [{path}] must be a table: write [{path}], {said}")
        return False

    def copy_siblings(self) -> None:
        """Give every section with `like` what its model has."""
        for top in NAMED:
            sections: dict[str, Any] = self.tables.get(top, {})
            for name in sections:
                self._copy(top, name, sections, (name,))

    def _copy(self, top: str, name: str, sections: dict[str, Any], seen: tuple[str, ...]) -> None:
        section = sections[name]
        if "like" not in section:
            return
        model = section.pop("like")
        path = f"{top}.{name}"
        file = self.origin.get(f"{path}.like", self.origin.get(path, self.top.name))
        if not isinstance(model, str) or model not in sections or model in seen:
            why = "it runs in a circle" if model in seen else "no such section beside it"
            why = why if isinstance(model, str) else "it names a section beside it"
            others = [s for s in sections if s != name]
            guess = "" if model in seen else nearest(str(model), others)
            self.broken |= {path, *(f"{top}.{s}" for s in seen)}
            self.problems.append(
                f"{file}: [{path}].like = {quoted(model)}: {why}.{guess} [{top}] has: "
                f"{listed(others)}"
            )
            return
        self._copy(top, model, sections, (*seen, model))
        copied = copy.deepcopy(sections[model])
        if top == "roles":
            copied.setdefault("kind", model)  # which its own name said
        sections[name] = {**copied, **section}
        self.copied[path] = f"{top}.{model}"
        for key in sections[name]:
            self.origin.setdefault(
                f"{path}.{key}", self.origin.get(f"{top}.{model}.{key}", self.top.name)
            )


def _rebased(value: Any, folder: Path) -> Any:
    """Return the tables of a file with its relative paths made absolute."""
    if isinstance(value, dict):
        return {_rebased(k, folder): _rebased(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_rebased(v, folder) for v in value]
    if not isinstance(value, str) or not re.fullmatch(r"[\w./-]+(?::\w+)?", value):
        return value
    place, colon, name = value.partition(":")
    is_code = bool(colon) and place.endswith(".py")
    is_path = not colon and (
        value.startswith(("./", "../")) or ("/" in value and (folder / value).exists())
    )
    if (is_code or is_path) and not value.startswith("/"):
        return str((folder / place).resolve()) + colon + name
    return value
