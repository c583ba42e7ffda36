"""How many bytes a record weighs, for windows and limits that count bytes.

The content is counted, not its encoding, so that a record weighs the same whether it goes to
another host or stays in the process: arrays and bytes exactly, everything else about right.

Knows nothing of links or ports. Called by the live ends of share wires, once a record.
"""

from __future__ import annotations

import functools
from typing import Any, get_type_hints

import msgspec

_BASE, _SCALAR = 16, 8
_SCALARS = (int, float, bool, type(None))


def weigh(record: msgspec.Struct) -> int:
    """Return the bytes that a record holds."""
    fixed, others = _fields(type(record))
    for name in others:
        fixed += _of(getattr(record, name))
    return fixed


def _of(value: Any) -> int:
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, _SCALARS):
        return _SCALAR
    num_bytes = getattr(value, "nbytes", None)  # arrays, tensors, memoryviews
    if isinstance(num_bytes, int):
        return num_bytes
    if isinstance(value, msgspec.Struct):
        return weigh(value)
    if isinstance(value, dict):
        return sum(_of(k) + _of(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        if not value or isinstance(next(iter(value)), _SCALARS):
            return _SCALAR * len(value)  # token ids: looking at each would cost more than it tells
        return sum(map(_of, value))
    return _BASE


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[int, tuple[str, ...]]:
    """Return what the plain fields of a type weigh, and the names of the others."""
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError):  # a type that only its module's reader knows
        hints = {}
    others = tuple(n for n in kind.__struct_fields__ if hints.get(n) not in _SCALARS)
    return _BASE + _SCALAR * (len(kind.__struct_fields__) - len(others)), others
