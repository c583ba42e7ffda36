"""Every key that a topology may have: what it means, what it may hold, who uses it.

Read from the records themselves: the framework's own tables, the configs of role classes and the
shared records that they declare. Knows nothing of what the keys do. Called by `explain.py` and
`schema.py`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from realnet.actor import Actor
from realnet.config import Bytes, Config, Seconds, Steps, to_plain
from realnet.errors import ConfigError
from realnet.references import Reference
from realnet.topology.chains import WireTable
from realnet.topology.kinds import load_kind, registered_kinds
from realnet.topology.roletable import PoolTable, RoleTable
from realnet.topology.runtable import RunTable
from realnet.topology.source import Source

Classes = Mapping[str, type[Actor[Any]]]
WORDS = {
    "extends": 'the topology below this one: a file beside it, or one that ships ("rl")',
    "title": "the name of the topology; its runs' folders are named after it",
    "like": "in a section: copies the section of that name beside it, then writes over it",
    "false": "as a value: removes a key, section, table or wire that a file below wrote",
    "run": "the run as a whole: when it ends, how patient it is, how processes are linked",
    "policy": "what all roles of the one policy must agree on",
    "policies": "[policies.X] instead of [policy], when a topology trains several",
    "tasks": "[tasks.X]: where problems come from and what a good answer is",
    "roles": "[roles.X]: one role, reserved words and the keys of its class",
    "wires": 'chains of roles: work = "a -> b -> c", or { path = "a -> b", deadline = "2min" }',
    "pools": "[pools.X]: machines with a name, on which roles may be placed",
}


class Entry(NamedTuple):
    """One key. In `path` an X stands for any name of a section or wire."""

    path: str
    meaning: str
    type: str
    default: str
    users: tuple[str, ...]


def registered_classes() -> dict[str, type[Actor[Any]]]:
    """Return the classes of all registered kinds that can be loaded."""
    return _loaded({kind: kind for kind in registered_kinds()}, Path())


def classes_of(source: Source) -> dict[str, type[Actor[Any]]]:
    """Return the classes of a topology's roles, as far as they can be loaded."""
    tables = source.tables.get("roles", {})
    return _loaded({name: str(t.get("kind") or name) for name, t in tables.items()}, source.base)


def _loaded(kinds: Mapping[str, str], base: Path) -> dict[str, type[Actor[Any]]]:
    classes = {}
    for name, kind in kinds.items():
        try:
            classes[name] = load_kind(kind, base, name)
        except (ConfigError, ImportError):
            continue
    return classes


def entries(classes: Classes) -> Iterator[Entry]:
    """Yield every key of a topology with these roles."""
    for name, cls in classes.items():
        yield from _record(f"roles.{name}", cls.Config, (f"{name} ({cls.__name__})",))
    for record, users in shared_records(classes).items():
        path = f"{record.table}.X" if record.many else record.table
        yield from _record(path, record, users)
        if record.table == "policy":
            yield from _record("policies.X", record, users)
    yield from _record("run", RunTable, ("the framework",))
    yield from _record("roles.X", RoleTable, ("the framework, for every role",))
    yield from _record("wires.X", WireTable, ("the framework, for every wire",))
    yield from _record("pools.X", PoolTable, ("the framework",))


def shared_records(classes: Classes) -> dict[Any, tuple[str, ...]]:
    """Return each shared record with the roles whose class declares it."""
    found: dict[Any, tuple[str, ...]] = {}
    for name, cls in classes.items():
        for record in cls.shared:
            found[record] = (*found.get(record, ()), f"{name} ({cls.__name__})")
    return found


def _record(path: str, record: type[Config], users: tuple[str, ...]) -> Iterator[Entry]:
    for field in msgspec.structs.fields(record):
        key = f"{path}.{field.encode_name}"
        yield Entry(key, meaning(field.type), type_text(field.type), default_text(field), users)
        for nested in tables_in(field.type):
            yield from _record(key, nested, users)


def meaning(kind: Any) -> str:
    """Return the description of a field's type, or ''."""
    for note in notes(kind):
        if isinstance(note, msgspec.Meta) and note.description:
            return note.description
    return ""


def notes(kind: Any) -> list[Any]:
    """Return what a type is annotated with, the outermost first."""
    if typing.get_origin(kind) is Annotated:
        inner, *outer = typing.get_args(kind)
        return [*outer, *notes(inner)]
    return []


def bare(kind: Any) -> Any:
    """Return a type without what it is annotated with."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    return kind


def options(kind: Any) -> list[Any]:
    """Return the types of a union, or the type alone; None left out."""
    kind = bare(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [o for o in typing.get_args(kind) if o is not type(None)]
    return [kind]


def tables_in(kind: Any) -> list[type[Config]]:
    """Return the records that a value of this type may be."""
    found = [bare(option) for option in options(kind)]
    return [o for o in found if isinstance(o, type) and issubclass(o, Config)]


def type_text(kind: Any) -> str:
    """Return in words what a value may be, limits included."""
    text = " or ".join(dict.fromkeys(_one_type(o) for o in options(kind)))
    for note in notes(kind):
        if isinstance(note, Reference):
            text = f"a reference: {note.shapes()}"
    limits = [
        f"{sign} {limit:g}"
        for note in [*notes(kind), *(n for o in options(kind) for n in notes(o))]
        if isinstance(note, msgspec.Meta)
        for sign, limit in ((">=", note.ge), (">", note.gt), ("<=", note.le), ("<", note.lt))
        if limit is not None
    ]
    return ", ".join([text, *dict.fromkeys(limits)])


_NAMES = {
    Seconds: 'a time, "10s" or "3h"; a number is in seconds',
    Bytes: 'a size, "2GiB"; a number is in bytes',
    Steps: 'training steps, "10 steps"',
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def _one_type(kind: Any) -> str:
    kind = bare(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(_toml(a) for a in args)
    if origin is dict:
        return f"a table of names, each {type_text(args[1])}"
    if origin in (list, tuple, set, frozenset):
        return f"a list, each {type_text(args[0])}" if args else "a list"
    if isinstance(kind, type) and issubclass(kind, Config):
        keys = ", ".join(f.encode_name for f in msgspec.structs.fields(kind))
        return f"a table with the keys {keys}"
    return str(_NAMES.get(kind, "anything"))


def default_text(field: msgspec.structs.FieldInfo) -> str:
    """Return the default of a field as a topology would write it; '' if it must be written."""
    if field.required:
        return ""
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None:
        return "not set"
    return _toml(to_plain(value) if isinstance(value, Config) else value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Seconds):
        return f'"{value:g}s"'
    if isinstance(value, Steps):
        return f'"{value} steps"'
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return "not set" if value is None else str(value)
