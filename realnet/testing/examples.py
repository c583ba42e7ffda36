"""Random records of any type, valid by construction: for round trips and for damage.

Knows nothing of bytes. Called by `fuzz.py` and by tests.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import inspect

from realnet.arrays import NUMPY_DTYPES
from realnet.message import Message, Request, StreamRequest

S = TypeVar("S", bound=msgspec.Struct)
_TEXTS = ("", "a", "role/0~1", "é\u4e2d\U0001f600", "x" * 40, "y" * 300)
_INTS = (0, 1, 2, 100, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32, 2**53, 2**63 - 1)


def record_types(base: type[Message] = Message) -> Iterator[type[Message]]:
    """Return every record type that has been declared in this program."""
    for kind in base.__subclasses__():
        if kind is not Request and kind is not StreamRequest:
            yield kind
        yield from record_types(kind)


def example(kind: type[S], rng: random.Random, depth: int = 4) -> S:
    """Return a random valid record; what may hold itself ends after `depth` levels."""
    value = _value(inspect.type_info(kind), rng, depth)
    assert isinstance(value, kind)
    return value


def _value(node: Any, rng: random.Random, depth: int) -> Any:
    if isinstance(node, inspect.StructType):
        return node.cls(
            **{
                field.name: _value(field.type, rng, depth - 1)
                for field in node.fields
                if field.required or (depth > 0 and rng.random() < 0.8)
            }
        )
    if isinstance(node, inspect.UnionType):
        plain = [t for t in node.types if isinstance(t, inspect.NoneType)]
        return _value(rng.choice(plain if depth <= 0 and plain else node.types), rng, depth)
    if isinstance(node, inspect.LiteralType):
        return rng.choice(node.values)
    if isinstance(node, inspect.EnumType):
        return rng.choice(list(node.cls))
    if isinstance(node, inspect.TupleType):
        return tuple(_value(t, rng, depth - 1) for t in node.item_types)
    if isinstance(node, inspect.CustomType):
        return _array(node.cls, rng)
    count = rng.randrange(4) if depth > 0 else 0
    if isinstance(node, inspect.DictType):
        pairs = ((node.key_type, node.value_type) for _ in range(count))
        return {_value(k, rng, depth - 1): _value(v, rng, depth - 1) for k, v in pairs}
    if hasattr(node, "item_type"):
        return _collection(node)(_value(node.item_type, rng, depth - 1) for _ in range(count))
    return _plain(node, rng)


def _collection(node: Any) -> Any:
    kinds = {inspect.ListType: list, inspect.SetType: set, inspect.FrozenSetType: frozenset}
    return kinds.get(type(node), tuple)


def _plain(node: Any, rng: random.Random) -> Any:
    if isinstance(node, inspect.BoolType):
        return rng.random() < 0.5
    if isinstance(node, inspect.IntType):
        low = node.ge if node.ge is not None else node.gt + 1 if node.gt is not None else None
        value = rng.choice(_INTS) if low is not None else rng.choice(_INTS) * rng.choice((1, -1))
        return max(value, low) if low is not None else value
    if isinstance(node, inspect.FloatType):
        return rng.choice((0.0, 0.5, 1.0, 3.25, 1e9))
    if isinstance(node, inspect.StrType):
        return rng.choice(_TEXTS)
    if isinstance(node, inspect.BytesType):
        return rng.randbytes(rng.choice((0, 1, 300)))
    if isinstance(node, inspect.RawType):
        return msgspec.Raw(msgspec.msgpack.encode([1, "raw"]))
    return None


def _array(cls: type, rng: random.Random) -> Any:
    shape = rng.choice(((), (0,), (3,), (2, 3), (20_000,)))
    array = np.zeros(shape, rng.choice(NUMPY_DTYPES))
    if cls.__module__ == "torch":
        return sys.modules["torch"].from_numpy(array)
    return array


def sendable(kinds: Iterable[type[Message]]) -> list[type[Message]]:
    """Return the kinds whose fields all have a type that travels, one of each name."""
    found: dict[str, type[Message]] = {}
    for kind in kinds:
        try:
            inspect.type_info(kind)
        except (TypeError, NameError):  # declared inside a function, with names of that function
            continue
        found.setdefault(kind.__name__, kind)
    return list(found.values())
