"""The JSON schema of topology files, for editors: completion, hover texts, mistakes underlined.

Made from the same records that `check` reads, so it cannot say anything else. It is of one file:
what `extends` or `like` brings is not in it, so nothing is required, and every key may be `false`.
Names, references and wires are left to `check`.

Draft 7, which is what editors' TOML servers read. It is printed on demand and not kept in a file:
a kept one would be wrong with the next field of a config. Called by `realnet schema`.
"""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from realnet.actor import Actor
from realnet.config import Bytes, Config, Seconds, Steps, to_plain
from realnet.topology.catalogue import (
    WORDS,
    Classes,
    bare,
    meaning,
    notes,
    options,
    registered_classes,
    shared_records,
)
from realnet.topology.chains import WireTable
from realnet.topology.roletable import RESERVED, PoolTable, RoleTable
from realnet.topology.runtable import RunTable

Schema = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"
_REMOVED = {"const": False}
_LIKE = {"type": "string", "description": WORDS["like"]}
_NUMBER = r"^\s*\d+\.?\d*(e[+-]?\d+)?\s*"
_UNITS = {
    Seconds: ("number", _NUMBER + r"(ms|s|min|h|d)\s*$", "10s"),
    Bytes: ("integer", _NUMBER + r"(B|KB|MB|GB|KiB|MiB|GiB)\s*$", "2GiB"),
    Steps: ("integer", r"^\s*\d+\s*steps?\s*$", "10 steps"),
}
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}


def topology_schema(own: Classes | None = None) -> Schema:
    """Return the schema with the registered kinds, and with a topology's own roles by name."""
    known = registered_classes()
    named = {**known, **(own or {})}
    tables: dict[str, dict[str, Schema]] = {}
    for record in shared_records(named):
        tables.setdefault(record.table, {}).update(_properties(record))
    run = {**tables.pop("run", {}), **_properties(RunTable)}
    policy, tasks = tables.pop("policy", {}), tables.pop("tasks", {})
    definitions = {f"role_{name}": _role(cls) for name, cls in named.items()}
    definitions["role"] = _role(None)
    definitions |= {f"word_{key}": schema for key, schema in _properties(RoleTable).items()}
    return {
        "$schema": DIALECT,
        "title": "realnet topology",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "extends": {"type": "string", "description": WORDS["extends"]},
            "title": {"type": "string", "description": WORDS["title"]},
            "run": _table(run, WORDS["run"]),
            "policy": _table(policy, WORDS["policy"]),
            "policies": _sections(_section(policy), WORDS["policies"]),
            "tasks": _sections(_section(tasks), WORDS["tasks"]),
            "pools": _sections(_section(_properties(PoolTable)), WORDS["pools"]),
            "wires": _sections(_wire(), WORDS["wires"]),
            "roles": {
                "description": WORDS["roles"],
                "anyOf": [_REMOVED, _roles(known, named)],
            },
        },
        "definitions": definitions,
    }


def _roles(known: Classes, named: Classes) -> Schema:
    return {
        "type": "object",
        "properties": {name: _named_role(name, known, name in known) for name in named},
        "additionalProperties": _named_role("", known, False),
    }


def _named_role(name: str, known: Classes, is_kind: bool) -> Schema:
    """Return the schema of the role of a name: as its `kind` says, or else as its name does."""
    rest: Schema = {"$ref": f"#/definitions/role_{name}" if name else "#/definitions/role"}
    if name and not is_kind:
        return _removable(rest)  # a role of this very file: its class is known
    written = {"type": "object", "anyOf": [{"required": ["kind"]}, {"required": ["like"]}]}
    schema: Schema = {"if": written, "then": {"$ref": "#/definitions/role"}, "else": rest}
    for kind in known:
        is_it = {"type": "object", "required": ["kind"], "properties": {"kind": {"const": kind}}}
        schema = {"if": is_it, "then": {"$ref": f"#/definitions/role_{kind}"}, "else": schema}
    return _removable(schema)


def _removable(schema: Schema) -> Schema:
    return {"anyOf": [_REMOVED, schema]}


def _role(cls: type[Actor[Any]] | None) -> Schema:
    """Return the schema of a role's table; without a class, any keys go beside the reserved."""
    words = {key: {"$ref": f"#/definitions/word_{key}"} for key in RESERVED}
    properties = {**(_properties(cls.Config) if cls else {}), **words}
    schema = _section(properties)
    if cls is None:
        schema["additionalProperties"] = True
    elif cls.__doc__:
        schema["description"] = cls.__doc__.strip().partition("\n")[0]
    return schema


def _wire() -> Schema:
    chain = {"type": "string", "pattern": "->", "description": "a chain of roles: a -> b -> c"}
    return {"anyOf": [chain, _object(_properties(WireTable), required=["path"])]}


def _table(properties: dict[str, Schema], description: str) -> Schema:
    return {"description": description, "anyOf": [_REMOVED, _object(properties)]}


def _sections(section: Schema, description: str) -> Schema:
    sections = {"type": "object", "additionalProperties": _removable(section)}
    return {"description": description, "anyOf": [_REMOVED, sections]}


def _section(properties: dict[str, Schema]) -> Schema:
    return _object({**properties, "like": _LIKE})


def _object(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _properties(record: type[Config]) -> dict[str, Schema]:
    """Return the schema of each key of a table; all of them may be `false`."""
    found = {}
    for field in msgspec.structs.fields(record):
        schema: Schema = {"anyOf": [_value(field.type), _REMOVED]}
        if meaning(field.type):
            schema = {"description": meaning(field.type), **schema}
        if not field.required:
            default = field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory()
            if default is not None:
                schema["default"] = _plain(default)
        found[field.encode_name] = schema
    return found


def _plain(default: Any) -> Any:
    if isinstance(default, Config):
        return to_plain(default)
    if isinstance(default, Seconds):
        return float(default)
    return int(default) if isinstance(default, Bytes | Steps) else msgspec.to_builtins(default)


def _value(kind: Any) -> Schema:
    """Return the schema of a value written as a whole: nested tables have their required keys."""
    choices = [_one(o) for o in options(kind)]
    schema = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return {**schema, **_limits(kind)}


def _limits(kind: Any) -> Schema:
    names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    names |= {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"}
    return {
        name: getattr(note, limit)
        for note in notes(kind)
        if isinstance(note, msgspec.Meta)
        for limit, name in names.items()
        if getattr(note, limit) is not None
    }


def _one(kind: Any) -> Schema:
    limits, kind = _limits(kind), bare(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in _UNITS:
        number, pattern, example = _UNITS[kind]
        text = {"type": "string", "pattern": pattern, "examples": [example]}
        return {"anyOf": [text, {"type": number, "minimum": 0}]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(args[1])}
    if origin is tuple and args and args[-1] is not Ellipsis:
        items = [_value(a) for a in args]
        size = len(args)
        return {"type": "array", "items": items, "minItems": size, "maxItems": size}
    if origin in (list, tuple, set, frozenset):
        return {"type": "array", "items": _value(args[0])} if args else {"type": "array"}
    if isinstance(kind, type) and issubclass(kind, Config):
        fields = msgspec.structs.fields(kind)
        properties = {f.encode_name: _documented(f) for f in fields}
        return _object(properties, required=[f.encode_name for f in fields if f.required])
    return {"type": _PLAIN[kind], **limits} if kind in _PLAIN else {}


def _documented(field: msgspec.structs.FieldInfo) -> Schema:
    text = meaning(field.type)
    return {**({"description": text} if text else {}), **_value(field.type)}
