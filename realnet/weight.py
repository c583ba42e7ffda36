"""How many bytes a record weighs, for windows and limits that count bytes.

The content is counted, not its encoding, so that a record weighs the same whether it goes to
another host or stays in the process: arrays and bytes exactly, everything else about right.

Knows nothing of links or ports. Called by the live ends of share wires, once a record.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

_BASE, _SCALAR = 16, 8
_SCALARS = (int, float, bool, type(None))


def weigh(record: msgspec.Struct) -> int:
    """Return the bytes that a record holds."""
    fixed, fields = _fields(type(record))
    for value in fields(record):
        fixed += _of(value)
    return fixed


_WAYS: dict[type[Any], Callable[[Any], int]] = {}  # one more for each type that was met


def _of(value: Any) -> int:
    kind = type(value)
    way = _WAYS.get(kind)
    if way is None:
        way = _WAYS[kind] = _way(kind)
    return way(value)


def _way(kind: type[Any]) -> Callable[[Any], int]:
    """Return how what is of this type is weighed."""
    if issubclass(kind, str | bytes | bytearray):
        return len
    if issubclass(kind, _SCALARS):
        return lambda _: _SCALAR
    if hasattr(kind, "nbytes"):  # arrays, tensors, memoryviews
        return _array
    if issubclass(kind, msgspec.Struct):
        return weigh
    if issubclass(kind, dict):
        return lambda table: sum(_of(k) + _of(v) for k, v in table.items())
    if issubclass(kind, list | tuple | set | frozenset):
        return _several
    return lambda _: _BASE


def _array(value: Any) -> int:
    num_bytes = value.nbytes
    return num_bytes if isinstance(num_bytes, int) else _BASE


def _several(values: Any) -> int:
    if not values or isinstance(next(iter(values)), _SCALARS):
        return _SCALAR * len(values)  # token ids: looking at each would cost more than it tells
    return sum(map(_of, values))


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[int, Callable[[Any], tuple[Any, ...]]]:
    """Return what the plain fields of a type weigh, and what gets the others of a record."""
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError):  # a type that only its module's reader knows
        hints = {}
    others = [n for n in kind.__struct_fields__ if hints.get(n) not in _SCALARS]
    fixed = _BASE + _SCALAR * (len(kind.__struct_fields__) - len(others))
    if len(others) > 1:
        return fixed, operator.attrgetter(*others)
    if others:  # of one name attrgetter makes no tuple
        return fixed, lambda record: (getattr(record, others[0]),)
    return fixed, lambda _: ()
