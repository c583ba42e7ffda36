"""What a key is: its meaning, what it may hold, its default, who uses it, and who wrote it.

With a topology, values and where they came from are told as well; a topology with mistakes can
still be explained. Knows nothing of the command line. Called by `realnet explain`.
"""

from __future__ import annotations

import itertools
from typing import Any

from realnet.errors import ConfigError, listed, nearest
from realnet.topology.catalogue import (
    WORDS,
    Classes,
    Entry,
    classes_of,
    entries,
    registered_classes,
)
from realnet.topology.kinds import registered_kinds
from realnet.topology.merge import NAMED
from realnet.topology.source import Source


def written(source: Source) -> list[str]:
    """Return a line for every value of a topology and the file that wrote it."""
    lines = []
    for path, file in sorted(source.origin.items()):
        value = _value(source, path)
        if value is not None and not isinstance(value, dict):
            lines.append(f"{path} = {value!r}    from {file}")
    return lines


def explain(key: str, source: Source | None) -> str:
    """Return what there is to say of a key, a table or a word. Raises ConfigError."""
    classes = classes_of(source) if source else registered_classes()
    known = list(entries(classes))
    told = [
        _entry(entry, path, source)
        for entry in known
        for path in _matches(entry.path, key, source, classes)
    ]
    if key in WORDS or not told:
        told = [*_table(key, known, classes, source), *told]
    if not told:
        told = _unknown_but_written(key, source)
    if not told:
        raise ConfigError(_lost(key, known, classes, source))
    return "\n\n".join(dict.fromkeys(told)) + "\n"


def _matches(pattern: str, key: str, source: Source | None, classes: Classes) -> list[str]:
    """Return the paths that a key means, of those that an entry stands for."""
    found = []
    for path in _concrete(pattern, source):
        mine, asked = path.split("."), key.split(".")
        tail = mine[-len(asked) :]
        if len(tail) == len(asked) and all(
            a == b or (b == "X" and i + 1 < len(asked))
            for i, (a, b) in enumerate(zip(asked, tail, strict=True))
        ):
            # trainer.count is roles.X.count, but trainer.steps is nothing of pools.X
            if pattern.startswith("roles.X") and len(asked) > 1 and source is None:
                role = asked[-len(mine) + 1] if len(asked) >= len(mine) - 1 else "X"
                if role not in classes and role != "X":
                    continue
                path = ".".join(["roles", role, *mine[2:]])
            elif "X" in mine and len(asked) >= len(mine) - 1 and source is None:
                if len(asked) < len(mine) and asked[0] != "X":
                    continue
                path = ".".join([mine[0], *asked[-len(mine) + 1 :]])
            found.append(path)
    return found


def _concrete(pattern: str, source: Source | None) -> list[str]:
    """Return the paths that a pattern stands for in a topology; the pattern itself without one."""
    top, x, *rest = [*pattern.split("."), "", ""]
    if source is None or x != "X":
        return [pattern]
    sections = source.tables.get(top, {})
    tail = [part for part in rest if part]
    return [".".join([top, name, *tail]) for name in sections] or [pattern]


def _entry(entry: Entry, path: str, source: Source | None) -> str:
    head, where = path, ""
    if source is not None:
        value = _value(source, path)
        if value is not None:
            head = f"{path} = {_shown(value)}"
            where = f"    from {_origin(source, path)}"
        elif entry.default:
            head, where = f"{path} = {entry.default}", "    by default"
    lines = [head + where]
    if entry.meaning:
        lines.append(f"    {entry.meaning}")
    lines.append(f"    it is    {entry.type}")
    lines.append(f"    default  {entry.default or 'none: it must be written'}")
    lines.append(f"    used by  {', '.join(entry.users)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _origin(source: Source, path: str) -> str:
    """Return the file that wrote a value, or the nearest table around it."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        file = source.origin.get(".".join(parts[:end]))
        if file:
            return file
    return source.path.name


def _table(key: str, known: list[Entry], classes: Classes, source: Source | None) -> list[str]:
    """Return what a table, a role or a word of the grammar is, with its keys."""
    parts = key.split(".")
    role = parts[-1]
    lines = []
    if len(parts) == 1 and key in WORDS:
        lines.append(f"{key}: {WORDS[key]}")
    if role in classes and (len(parts) == 1 or parts[0] == "roles"):
        doc = (classes[role].__doc__ or "").strip().partition("\n")[0]
        lines.append(f"roles.{role}: {doc}")
        key = f"roles.{role}"
    elif len(parts) == 2 and parts[0] == "wires" and source is not None:
        value = _value(source, key)
        if value is not None:
            lines.append(f"{key} = {value!r}    from {_origin(source, key)}\n    {WORDS['wires']}")
    pattern = key
    if len(parts) == 2 and parts[0] in NAMED and not any(e.path.startswith(key) for e in known):
        pattern = f"{parts[0]}.X"
    inside = [e for e in known if e.path.startswith(pattern + ".")]
    deep = pattern.count(".") + (2 if pattern in NAMED or pattern == "wires" else 1)
    rows = [(e.path, e.meaning) for e in inside if e.path.count(".") == deep]
    if not lines and rows:
        lines.append(f"{key}:")
    width = max((len(path) for path, _ in rows), default=0)
    lines += [f"    {path.ljust(width)}  {text}".rstrip() for path, text in dict.fromkeys(rows)]
    return ["\n".join(lines)] if lines else []


def _unknown_but_written(key: str, source: Source | None) -> list[str]:
    """Return what a file wrote under a key that no class knows: a mistake, or part of a value."""
    if source is None:
        return []
    inside = _value(source, key)
    if inside is not None and "." in key:
        return [f"{key} = {_shown(inside)}    from {_origin(source, key)}"]
    return [
        f"{path} = {_value(source, path)!r}    from {file}"
        for path, file in sorted(source.origin.items())
        if path == key or path.endswith(f".{key}")
    ]


def _lost(key: str, known: list[Entry], classes: Classes, source: Source | None) -> str:
    paths = {e.path for e in known} | set(source.origin if source else ())
    ends = {".".join(p.split(".")[i:]) for p in paths for i in range(p.count(".") + 1)}
    close = nearest(key, itertools.chain(ends, WORDS))
    if source is not None:
        return f"{source.path.name}: no key {key!r} in it.{close}"
    unloaded = sorted(set(registered_kinds()) - set(classes))
    lacking = f" Kinds that cannot be loaded here: {listed(unloaded)}" if unloaded else ""
    return f"there is no key {key!r}.{close}{lacking}"


def _value(source: Source, path: str) -> Any:
    value: Any = source.tables
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
