"""What a record looks like, in words that two processes can compare.

A schema names the fields of a record in order, with their types, and those of every record inside
it. Two schemas fit when one has only more fields at the end, each with a default: then either end
reads what the other writes. `difference` says in words what does not fit.

Knows nothing of bytes or peers. Used when a process joins a run, and by `codec.py` to name fields
in errors.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import numpy as np
from msgspec import inspect

_STEP = re.compile(r"\[(\d+|\.\.\.)\]|\.(\w+)")
_AT = re.compile(r" - at `(?:key in )?(\$[^`]*)`$")


class Field(msgspec.Struct, frozen=True, array_like=True):
    """One field. `dtypes` are those of the numpy arrays in it, as declared; empty if any will do.

    An alias like `NDArray[Any]` and a tensor leave it empty.
    """

    name: str
    type: str
    needed: bool
    dtypes: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {', '.join(self.dtypes)}" if self.dtypes else ""
        return f"{self.name}: {self.type}{of}{'' if self.needed else ' = ...'}"


class Schema(msgspec.Struct, frozen=True, array_like=True):
    """A record, and all the records inside it by name."""

    record: str
    records: dict[str, tuple[Field, ...]]


@functools.cache
def schema_of(record: type[msgspec.Struct]) -> Schema:
    """Return the schema of a record type."""
    writer = _Writer()
    name = writer.text(inspect.type_info(record))
    return Schema(name, writer.records)


@functools.cache
def schema_hash(record: type[msgspec.Struct]) -> str:
    """Return a digest of `schema_of(record)`; two ends of a wire compare it at hello.

    Equal digests mean equal schemas. Different ones may still fit: `difference` tells.
    """
    return hashlib.blake2b(msgspec.json.encode(schema_of(record)), digest_size=8).hexdigest()


def difference(here: Schema, there: Schema) -> str:
    """Return in words why two ends with these schemas do not understand each other; '' if they do.

    Fields added at the end with a default are no difference.
    """
    if here.record != there.record:
        return f"here it is {here.record}, there it is {there.record}"
    for name, mine in here.records.items():
        theirs = there.records.get(name)
        if theirs is None:
            continue  # the field that names it differs, or came later
        found = _fields_differ(name, mine, theirs)
        if found:
            return found
    return ""


def compatible(here: Schema, there: Schema) -> bool:
    """Tell whether two ends with these schemas understand each other."""
    return not difference(here, there)


def _fields_differ(name: str, mine: tuple[Field, ...], theirs: tuple[Field, ...]) -> str:
    for place, (a, b) in enumerate(zip(mine, theirs, strict=False), 1):
        same_dtypes = a.dtypes == b.dtypes or not (a.dtypes and b.dtypes)
        if a.name != b.name or a.type != b.type or not same_dtypes:
            return (
                f"field {place} of {name} is '{a}' here and '{b}' there; fields are added at the "
                "end, and never changed"
            )
    longer, where = (mine, "here") if len(mine) > len(theirs) else (theirs, "there")
    for field in longer[min(len(mine), len(theirs)) :]:
        if field.needed:
            return f"{name} has a field '{field}' {where} only: give it a default"
    return ""


class _Writer:
    """Writes types as text, and collects the records they name."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[Field, ...]] = {}
        self._names: dict[type, str] = {}

    def text(self, node: Any) -> str:
        kind = type(node).__name__.removesuffix("Type")
        if isinstance(node, inspect.CustomType):
            return "array" if _is_array(node.cls) else node.cls.__name__
        if isinstance(node, inspect.UnionType):
            return " | ".join(sorted(self.text(t) for t in node.types))
        if isinstance(node, inspect.LiteralType):
            return f"one of {', '.join(sorted(map(repr, node.values)))}"
        if isinstance(node, inspect.EnumType):
            values = ", ".join(sorted(repr(member.value) for member in node.cls))
            return f"{node.cls.__name__} ({values})"
        if isinstance(node, inspect.TupleType):
            return f"({', '.join(self.text(t) for t in node.item_types)})"
        if isinstance(node, inspect.DictType):
            inside = f"{self.text(node.key_type)}: {self.text(node.value_type)}"
            return f"{{{inside}}}{_bounds(node)}"
        if hasattr(node, "item_type"):  # lists, sets and tuples of any length are one on the wire
            return f"[{self.text(node.item_type)}]{_bounds(node)}"
        if hasattr(node, "fields") and hasattr(node, "cls"):
            return self._record(node)
        return kind.lower() + _bounds(node)

    def _record(self, node: Any) -> str:
        known = self._names.get(node.cls)
        if known is not None:
            return known
        name, count = node.cls.__name__, 1
        if getattr(node, "tag", None) is not None:
            name += f" (tag {node.tag!r})"
        while (name if count == 1 else f"{name} #{count}") in self.records:
            count += 1
        name = self._names[node.cls] = name if count == 1 else f"{name} #{count}"
        self.records[name] = ()  # keeps its place: records in it may name it
        hints = {f.name: f.type for f in msgspec.structs.fields(node.cls)} if _is(node) else {}
        self.records[name] = tuple(
            Field(f.encode_name, self.text(f.type), f.required, tuple(_dtypes(hints.get(f.name))))
            for f in node.fields
        )
        return name


def _is(node: Any) -> bool:
    return isinstance(node, inspect.StructType)


def _is_array(cls: type) -> bool:
    return issubclass(cls, np.ndarray) or (cls.__module__, cls.__name__) == ("torch", "Tensor")


def _bounds(node: Any) -> str:
    said = [
        f"{name}={value!r}"
        for name in node.__struct_fields__
        if not isinstance(value := getattr(node, name), inspect.Type | type(None))
    ]
    return f" ({', '.join(said)})" if said else ""


def _dtypes(hint: Any) -> Iterator[str]:
    if getattr(hint, "__origin__", None) is np.ndarray:
        for arg in get_args(get_args(hint)[1]):
            if isinstance(arg, type) and issubclass(arg, np.generic):
                yield arg.__name__
        return
    for arg in get_args(hint):
        yield from _dtypes(arg)


def told(record: type[msgspec.Struct], error: str) -> str:
    """Return an error text of msgspec with fields by their names: `$[3][0]` as `$.spans[0]`."""
    at = _AT.search(error)
    if at is None:
        return error
    return f"{error[: at.start()]} at {named_path(record, at.group(1))}"


def named_path(record: type[msgspec.Struct], path: str) -> str:
    """Return a path of msgspec with the names of fields instead of their places."""
    node: Any = inspect.type_info(record)
    said = "$"
    for number, name in _STEP.findall(path):
        node = _alone(node)
        fields = getattr(node, "fields", ())
        if name:
            said += f".{name}"
            node = next((f.type for f in fields if f.encode_name == name), None)
        elif number != "..." and fields:
            place = int(number) - (getattr(node, "tag", None) is not None)
            field = fields[place] if 0 <= place < len(fields) else None
            said += f".{field.name}" if field else f"[{number}]"
            node = field.type if field else None
        else:
            said += f"[{number}]"
            items = getattr(node, "item_types", ())
            if number != "..." and int(number) < len(items):
                node = items[int(number)]
            else:
                node = getattr(node, "item_type", getattr(node, "value_type", None))
    return said


def _alone(node: Any) -> Any:
    """Return the one type of a union that has something inside."""
    if not isinstance(node, inspect.UnionType):
        return node
    inside = [t for t in node.types if hasattr(t, "fields") or hasattr(t, "item_type")]
    inside += [t for t in node.types if hasattr(t, "value_type") or hasattr(t, "item_types")]
    return inside[0] if len(inside) == 1 else None
