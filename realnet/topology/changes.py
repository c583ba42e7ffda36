"""What is different between the plan that a run was begun with and the one it is to go on with.

Every key may change unless its field is marked (`realnet.changes`), or unless it belongs to an
entry of a shared table that binds (`Shared.binds`). Paths are compared as seen from the topology's
folder, so a project may be moved as a whole.

Knows records only by their fields and marks. Called by the command line before a run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from realnet.changes import Fixed, Past
from realnet.config import Config, Shared
from realnet.errors import ConfigError
from realnet.topology.catalogue import Classes, notes, shared_records, tables_in
from realnet.topology.kinds import load_kind
from realnet.topology.plan import Plan

_GONE = object()
_PLACES = ("count", "max", "ranks", "gpus", "cpus", "place", "kind")


class Change(NamedTuple):
    """One key, dotted, with its values before and after; `idle` says why it has no effect."""

    key: str
    before: Any
    after: Any
    idle: str = ""

    def __str__(self) -> str:
        text = f"{self.key} = {_told(self.after)}, was {_told(self.before)}"
        return f"{text} (no effect: {self.idle})" if self.idle else text


class Changes(NamedTuple):
    """What differs: what is taken, and a complaint for each key that cannot be."""

    taken: list[Change]
    refused: list[str]


def compare(before: Plan, after: Plan) -> Changes:
    """Return what a resume with `after` would change of a run that `before` describes."""
    before, after = _as_read(before), _as_read(after)
    classes = {name: load_kind(r.kind, Path(after.base), name) for name, r in after.roles.items()}
    found = Changes([], [])
    if before.title != after.title:
        found.refused.append(
            f'title = "{after.title}": the run is of the topology "{before.title}". Name the run '
            "to go on with (--name), or fork it: --from"
        )
        return found
    moved = (before.base, after.base)
    for table, records in _tables(classes).items():
        was, now = before.shared.get(table, {}), after.shared.get(table, {})
        for name in dict.fromkeys([*was, *now]):
            _entry(records, table, name, was.get(name), now.get(name), moved, found)
    _roles(before, after, classes, moved, found)
    for key in dict.fromkeys([*before.run, *after.run]):
        _note(found, f"run.{key}", before.run.get(key), after.run.get(key))
    if [str(w) for w in before.wires] != [str(w) for w in after.wires]:
        found.taken.append(Change("wires", _wires(before), _wires(after)))
    return found


def refuse(changes: Changes, run: str, topology: str) -> None:
    """Raise ConfigError with every key that cannot change, why, and what to do instead."""
    if changes.refused:
        lines = [f"{run} cannot be resumed with this: {text}" for text in changes.refused]
        lines.append(
            f"keep what it was begun with; or fork it, which leaves {run} as it is: "
            f"realnet run {topology} --from {run}"
        )
        raise ConfigError("\n".join(lines))


# ------------------------------------------------------------ tables


def _tables(classes: Classes) -> dict[str, list[type[Shared]]]:
    tables: dict[str, list[type[Shared]]] = {}
    for record in shared_records(classes):
        tables.setdefault(record.table, []).append(record)
    return tables


def _entry(
    records: list[type[Shared]],
    table: str,
    name: str,
    was: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
    moved: tuple[str, str],
    found: Changes,
) -> None:
    """Compare one entry of a shared table: [policy], [tasks.X], [run]."""
    path = f"{table}.{name}" if name and name != table else table
    binds = next((r.binds(t) for r in records for t in (was, now) if t and r.binds(t)), "")
    if was is None or now is None:
        if binds:
            what = "is new" if was is None else "is not there any more"
            found.refused.append(f"[{path}] {what}, but {binds}")
        else:
            _note(found, path, "there" if was else None, "there" if now else None)
        return
    free = records[0].many and not binds
    for record in records:
        for change, mark in _fields(record, path, was, now, moved):
            _judge(found, change, None if free else mark)


def _roles(
    before: Plan, after: Plan, classes: Classes, moved: tuple[str, str], found: Changes
) -> None:
    for name in dict.fromkeys([*before.roles, *after.roles]):
        was, now = before.roles.get(name), after.roles.get(name)
        if was is None or now is None:
            _note(found, f"roles.{name}", "there" if was else None, "there" if now else None)
            continue
        for key in _PLACES:
            _note(found, f"roles.{name}.{key}", getattr(was, key), getattr(now, key))
        config = classes[name].Config
        for change, mark in _fields(config, f"roles.{name}", was.config, now.config, moved):
            _judge(found, change, mark)


def _fields(
    record: type[Config],
    path: str,
    was: Mapping[str, Any],
    now: Mapping[str, Any],
    moved: tuple[str, str],
) -> Iterator[tuple[Change, Fixed | Past | None]]:
    """Yield each key that differs, with the mark of its field or of the table around it."""
    for field in msgspec.structs.fields(record):
        key = field.encode_name
        old, new = was.get(key, _GONE), now.get(key, _GONE)
        old = _moved(old, *moved)
        if old is _GONE or new is _GONE or old == new:  # gone: another realnet wrote the plan
            continue
        mark = next((n for n in notes(field.type) if isinstance(n, Fixed | Past)), None)
        nested = tables_in(field.type)
        if len(nested) == 1 and isinstance(old, Mapping) and isinstance(new, Mapping):
            for change, inner in _fields(nested[0], f"{path}.{key}", old, new, moved):
                yield change, mark or inner
        else:
            yield Change(f"{path}.{key}", old, new), mark


def _judge(found: Changes, change: Change, mark: Fixed | Past | None) -> None:
    if isinstance(mark, Past):
        found.taken.append(change._replace(idle=mark.why))
    elif mark is None or (mark.to and change.after not in mark.to):
        found.taken.append(change)
    else:
        more = "" if mark.fork else " A fork cannot change it either: begin a new run"
        found.refused.append(f"{change}: {mark.why}.{more}")


def _note(found: Changes, key: str, before: Any, after: Any) -> None:
    if before != after:
        found.taken.append(Change(key, before, after))


def _as_read(plan: Plan) -> Plan:
    """Return a plan as plan.json would give it back: a tuple is a list there."""
    return msgspec.json.decode(msgspec.json.encode(plan), type=Plan)


def _moved(value: Any, before: str, after: str) -> Any:
    """Return a value with the paths below one folder as they would be below another."""
    if isinstance(value, str) and before != after:
        scheme = "run:" if value.startswith("run:") else ""
        path = Path(value.removeprefix(scheme))
        if path.is_relative_to(before):
            return f"{scheme}{Path(after) / path.relative_to(before)}"
    if isinstance(value, Mapping):
        return {_moved(k, before, after): _moved(v, before, after) for k, v in value.items()}
    return value


def _wires(plan: Plan) -> str:
    return "; ".join(str(w) for w in plan.wires)


def _told(value: Any) -> str:
    if value is None:
        return "not set"
    return msgspec.json.encode(value).decode()
