"""Typed tables: how a TOML table becomes a frozen record, and how its mistakes are told.

A role declares `class Config(realnet.Config)` with typed, documented fields; a record that several
roles must agree on is a `Shared` with the name of its table. Units are strings: `Seconds` takes
"10s", `Bytes` takes "2GiB". Every mistake of a table is collected, not only the first, and each
names file, table, key and the nearest right name.

Knows nothing of TOML files, wires or roles. Called by `topology/` and by a node that starts a role.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

import msgspec

from realnet.errors import ConfigError, listed, nearest
from realnet.references import Reference

_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Seconds(float):
    """A duration in seconds; in a topology a number, or a string such as "10s" or "3h"."""


class Bytes(int):
    """A size in bytes; in a topology a number, or a string such as "2GiB"."""


class Steps(int):
    """A count of training steps; in a topology a number, or a string such as "10 steps"."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class ConfigMeta(msgspec.StructMeta):
    """Tells type checkers what msgspec does at run time: subclasses are frozen, fields by name."""


class Config(msgspec.Struct, metaclass=ConfigMeta, frozen=True, kw_only=True):
    """Base of a role's own table. Field docs go in `Annotated[..., doc("...")]`."""


class Shared(Config):
    """Base of a record that several roles must agree on, written once in a topology.

    `table` is the name of its TOML table. With `many = True` the table holds named entries, and a
    role gets a dict of them.
    """

    table: ClassVar[str] = ""
    many: ClassVar[bool] = False

    @classmethod
    def binds(cls, table: Mapping[str, Any]) -> str:
        """Return why a run that was begun with this entry needs it to the end, or "".

        `table` is the entry as plain values. A resumed run can neither lose nor gain a binding
        entry, nor change its fields that are marked `Fixed`.
        """
        return ""

    def going_on(self, base: Path) -> Shared:
        """Return what a run that goes on still needs of this record: its role classes check that.

        `base` is where its paths start. Raises ConfigError.
        """
        return self


C = TypeVar("C", bound=Config)
_UNIT_TYPES = (Seconds, Bytes, Steps)


def doc(text: str, **limits: Any) -> Any:
    """Document a field, with optional limits: `Annotated[int, doc("answers a ticket", ge=1)]`."""
    return msgspec.Meta(description=text, **limits)


def parse_quantity(text: str, units: Mapping[str, float], what: str) -> float:
    """Return the number that `text` ("10s", "2 GiB") stands for in base units."""
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2] not in units:
        guess = _meant_unit(match[2], units) if match else ""
        meant = f' Did you mean "{match[1]}{guess}"?' if match and guess else ""
        raise ValueError(f"it is not {what}: write a number and one of {', '.join(units)}.{meant}")
    number = float(match[1]) * units[match[2]]
    if not math.isfinite(number):
        raise ValueError(f"it is not {what}: no machine counts so far")
    return number


def _meant_unit(word: str, units: Mapping[str, float]) -> str:
    """Return the unit that people mean by a word such as sec, minutes, gb or G, or ''."""
    plain = {unit.lower(): unit for unit in reversed(list(units))}
    letters = {**{unit[0].lower(): unit for unit in units if "i" not in unit}, **plain}
    letters |= {"k": "KiB", "m": "MiB", "g": "GiB"} if units is _BYTES else {"m": "min"}
    word = word.lower()
    return letters.get(word) or (letters.get(word[:3]) or letters.get(word[:1], "") if word else "")


def parse_seconds(text: str) -> float:
    """Return the seconds that "10s" or "1min" stands for. Raises ValueError."""
    return parse_quantity(text, _SECONDS, "a time")


def _convert_units(kind: type, value: Any) -> Any:
    if kind is Seconds:
        if isinstance(value, str):
            value = parse_seconds(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            return Seconds(value)
        raise ValueError('it is not a time: write for example "10s"')
    if kind is Bytes:
        if isinstance(value, str):
            value = int(parse_quantity(value, _BYTES, "a size"))
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return Bytes(value)
        raise ValueError('it is not a size: write for example "2GiB"')
    if kind is Steps:
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d+)\s*steps?\s*", value)
            if match is None:
                raise ValueError('it is not a count of steps: write for example "10 steps"')
            value = int(match[1])
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return Steps(value)
        raise ValueError('it is not a count of steps: write for example "10 steps"')
    raise NotImplementedError(kind)


def encode_units(value: Any) -> Any:
    """`enc_hook` for configs: unit types are written as plain numbers."""
    if isinstance(value, Seconds):
        return float(value)
    if isinstance(value, Bytes | Steps):
        return int(value)
    raise NotImplementedError(type(value))


def to_plain(config: Config) -> dict[str, Any]:
    """Return the table as plain values, defaults included, so that `read_table` reads it back."""
    plain = msgspec.to_builtins(config, enc_hook=encode_units)
    return typing.cast(dict[str, Any], plain)


def read_table(
    cls: type[C],
    table: Mapping[str, Any],
    where: str,
    also: Sequence[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> C:
    """Turn a TOML table into `cls`.

    `where` is 'file: [table]' and opens every complaint; `also` are keys that the table may have
    besides those of `cls`, and `elsewhere` says in which other table a key belongs (complaints
    name them). Raises ConfigError with one line for each mistake in the table.
    """
    fields = {f.encode_name: f for f in msgspec.structs.fields(cls)}
    known = [*fields, *also]
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, value in table.items():
        field = fields.get(key)
        if field is None:
            problems.append(
                f"{where}.{key}: no such key.{_other(key, elsewhere) or nearest(key, known)} "
                f"It knows: {listed(fields)}"
                + (f"; and of every role: {listed(also)}" if also else "")
            )
            continue
        try:
            values[field.name] = _read_value(field.type, value, f"{where}.{key}")
        except ConfigError as error:
            problems.append(str(error))
        except (msgspec.ValidationError, ValueError) as error:
            # What stands in place of the names of secrets may be the secrets.
            shown = "" if key == "secrets" else f" = {value!r}"
            problems.append(f"{where}.{key}{shown}: {_tell(field.type, value, error)}")
    for field in fields.values():
        if field.required and field.encode_name not in table:
            problems.append(f"{where}: {field.encode_name} is missing.{_help(field.type)}")
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _other(key: str, elsewhere: Mapping[str, str] | None) -> str:
    table = (elsewhere or {}).get(key)
    return f" It belongs in {table}." if table else ""


def _read_value(kind: Any, value: Any, where: str) -> Any:
    """Convert one value; nested Config tables complain with their own path."""
    bare = kind
    while typing.get_origin(bare) is Annotated:
        bare = typing.get_args(bare)[0]
    options = [a for a in typing.get_args(bare) if a is not type(None)] or [bare]
    nested = [o for o in options if isinstance(o, type) and issubclass(o, Config)]
    if len(nested) == 1 and isinstance(value, Mapping):
        return read_table(nested[0], value, where)
    others = [o for o in options if o not in nested]
    if nested and len(others) == 1 and others[0] in _UNIT_TYPES:
        kind = others[0]  # msgspec reads no union of a table and a unit
    read = msgspec.convert(value, kind, dec_hook=_convert_units)
    for note in _notes(kind):
        if isinstance(note, Reference) and isinstance(read, str):
            note.check(read)
    return read


def _notes(kind: Any) -> list[Any]:
    """Return what a type is annotated with."""
    if typing.get_origin(kind) is not Annotated:
        return []
    inner, *notes = typing.get_args(kind)
    return [*_notes(inner), *notes]


def _tell(kind: Any, value: Any, error: Exception) -> str:
    """Return what is wrong with a value; of a word that is none of some words, the nearest."""
    words = [word for word in _words(kind) if isinstance(word, str)]
    if words and isinstance(value, str):
        return f"no such value.{nearest(value, words)} It may be: {listed(words)}"
    text = _tidy(str(error))
    if "Expected table" in text and not isinstance(value, Mapping):
        text += f": write {_shape(kind)}"
    if text == "Expected list, got a text":
        text += f': write ["{value}"]'
    return text


def _shape(kind: Any) -> str:
    """Return how a table of a type is written, for who wrote something else."""
    tables = [t for t in _parts(kind) if isinstance(t, type) and issubclass(t, Config)]
    keys = [f.encode_name for t in tables[:1] for f in msgspec.structs.fields(t)]
    return f"{{ key = ... }}, keys: {listed(keys)}" if keys else '{ "name" = value }'


def _parts(kind: Any) -> list[Any]:
    """Return the types that a type allows, through Annotated and unions."""
    if typing.get_origin(kind) is Annotated:
        return _parts(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [part for option in typing.get_args(kind) for part in _parts(option)]
    return [kind]


def _words(kind: Any) -> list[Any]:
    """Return the literals that a type allows, through Annotated and unions."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        parts = parts[:1]
    elif typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return []
    return [word for part in parts for word in _words(part)]


_TOLD = (
    (r"`", ""),
    (r" - at \$.*", ""),
    (r" \| null", ""),
    (r"\bobject\b", "table"),
    (r"\barray\b", "list"),
    (r"\bint\b", "a whole number"),
    (r"\bfloat\b", "a number"),
    (r"\bstr\b", "a text"),
    (r"\bbool\b", "true or false"),
)


def _tidy(text: str) -> str:
    """Return msgspec's text in TOML's words."""
    for told, meant in _TOLD:
        text = re.sub(told, meant, text)
    return text


def _help(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        for note in typing.get_args(kind)[1:]:
            if isinstance(note, msgspec.Meta) and note.description:
                return f" It is: {note.description}."
    return ""
