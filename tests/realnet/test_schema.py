"""Schemas see every change that two ends must not disagree on, and only those."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from realnet import Message
from realnet.schema import (
    Schema,
    compatible,
    difference,
    named_path,
    schema_hash,
    schema_of,
)

STEM = {"__module__": __name__}


class Color(enum.Enum):
    RED = "red"


class Inner(Message):
    weight: float


def record(name: str = "Sample", /, **fields: Any) -> type[Message]:
    """Make a record type; a field given as (type, default) has a default."""
    hints = {k: v[0] if isinstance(v, tuple) else v for k, v in fields.items()}
    values = {k: v[1] for k, v in fields.items() if isinstance(v, tuple)}
    return type(Message)(name, (Message,), {"__annotations__": hints, **values, **STEM})


BASE = {"a": int, "inner": Inner}


def test_equal_records_have_equal_hashes() -> None:
    assert schema_hash(record(**BASE)) == schema_hash(record(**BASE))
    assert difference(schema_of(record(**BASE)), schema_of(record(**BASE))) == ""


CHANGED = {
    "another name": record("Simple", **BASE),
    "another field name": record(b=int, inner=Inner),
    "another type": record(a=str, inner=Inner),
    "another order": record(inner=Inner, a=int),
    "one field less": record(a=int),
    "one needed field more": record(**BASE, more=int),
    "a field inside more": record(a=int, inner=record("Inner", weight=float, more=int)),
    "another type inside": record(a=int, inner=record("Inner", weight=str)),
    "another name inside": record(a=int, inner=record("Inner", mass=float)),
    "may be none": record(a=int | None, inner=Inner),
    "bounds": record(a=Annotated[int, msgspec.Meta(ge=0)], inner=Inner),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_change_changes_the_hash_and_is_told_from_both_sides(what: str) -> None:
    here, there = schema_of(record(**BASE)), schema_of(CHANGED[what])
    assert schema_hash(record(**BASE)) != schema_hash(CHANGED[what])
    assert difference(here, there)
    assert difference(there, here)
    assert not compatible(here, there)


PAIRS = [
    (list[int], list[str]),
    (dict[str, int], dict[str, float]),
    (Literal["a"], Literal["a", "b"]),
    (tuple[int, str], tuple[int, int]),
    (Color, enum.Enum("Color", {"RED": "crimson"})),
    (npt.NDArray[np.int32], npt.NDArray[np.int64]),
    (list[Inner], list[record("Inner", weight=int)]),
    (Inner | None, record("Inner", weight=int) | None),
    (dict[str, Inner], dict[str, record("Inner", weight=int)]),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_types_inside_types_count(one: Any, other: Any) -> None:
    assert schema_hash(record(x=one)) != schema_hash(record(x=other))
    assert not compatible(schema_of(record(x=one)), schema_of(record(x=other)))


def test_fields_at_the_end_with_a_default_fit_at_any_depth() -> None:
    more_inner = record("Inner", weight=float, name=(str, ""))
    grown = record(a=int, inner=more_inner, extra=(record("Extra", z=int) | None, None))
    here, there = schema_of(record(**BASE)), schema_of(grown)
    assert schema_hash(record(**BASE)) != schema_hash(grown)
    assert compatible(here, there)
    assert compatible(there, here)


def test_what_is_the_same_on_the_wire_fits() -> None:
    assert compatible(schema_of(record(x=list[int])), schema_of(record(x=tuple[int, ...])))
    tensor, array = record(x=torch.Tensor), record(x=npt.NDArray[np.float32])
    assert compatible(schema_of(tensor), schema_of(array))
    assert compatible(schema_of(record(x=npt.NDArray[Any])), schema_of(array))


def test_the_words() -> None:
    here = schema_of(record(**BASE))
    assert difference(here, schema_of(CHANGED["another type inside"])) == (
        "field 1 of Inner is 'weight: float' here and 'weight: str' there; fields are added at "
        "the end, and never changed"
    )
    assert difference(schema_of(CHANGED["one needed field more"]), here) == (
        "Sample has a field 'more: int' here only: give it a default"
    )
    assert difference(here, schema_of(CHANGED["another name"])) == (
        "here it is Sample, there it is Simple"
    )


class Tree(Message):
    name: str
    below: tuple[Tree, ...] = ()
    by_name: dict[str, Tree] = {}
    pair: tuple[int, Inner] | None = None


def test_records_that_hold_themselves_and_travel_as_values() -> None:
    schema = schema_of(Tree)
    assert str(schema.records["Tree"][1]) == "below: [Tree] = ..."
    raw = msgspec.msgpack.encode(schema)
    assert msgspec.msgpack.decode(raw, type=Schema) == schema
    assert difference(schema, msgspec.msgpack.decode(raw, type=Schema)) == ""


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("$", "$"),
        ("$[0]", "$.name"),
        ("$[1][3][1][0][0]", "$.below[3].below[0].name"),
        ("$[2][...][0]", "$.by_name[...].name"),
        ("$[3][1][0]", "$.pair[1].weight"),
        ("$[9][1].x", "$[9][1].x"),
    ],
)
def test_paths_get_the_names_of_fields(path: str, named: str) -> None:
    assert named_path(Tree, path) == named
