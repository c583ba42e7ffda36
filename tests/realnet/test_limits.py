"""Limits are checked before decoding, exactly, and hostile MessagePack ends as a declared error."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest

from realnet import Message, wire
from realnet.codec import Codec
from realnet.errors import TooLarge, WireError
from realnet.limits import (
    MAX_BATCH_BYTES,
    MAX_DEPTH,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_OBJECTS,
    check_objects,
    check_sizes,
    may_be_deep,
)


class Flat(Message):
    number: int
    names: tuple[str, ...] = ()


class Tree(Message):
    number: int
    below: tuple[Tree, ...] = ()


class Free(Message):
    value: Any


class Late(Message):
    raw: msgspec.Raw


CODEC = Codec([Flat, Tree, Free, Late])


def value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(12 if depth else 8)
    if kind < 3:
        return rng.choice([None, True, False, -rng.getrandbits(5), rng.getrandbits(62)])
    if kind == 3:
        return -rng.getrandbits(rng.randrange(1, 62))
    if kind == 4:
        return rng.random()
    if kind == 5:
        return "x" * rng.choice([0, 1, 31, 32, 255, 256, 65536])
    if kind == 6:
        return rng.randbytes(rng.choice([0, 1, 255, 256, 65536]))
    if kind == 7:
        size = rng.choice([1, 2, 3, 4, 8, 16, 17, 256, 65536])
        return msgpack.ExtType(rng.randrange(5), rng.randbytes(size))
    if kind == 8:
        return {str(i): value(rng, depth - 1) for i in range(rng.choice([0, 1, 15, 16]))}
    return [value(rng, depth - 1) for _ in range(rng.choice([0, 1, 3, 15, 16]))]


def objects(v: Any) -> int:
    if isinstance(v, dict):
        return 1 + sum(1 + objects(x) for x in v.values())
    return 1 + sum(map(objects, v)) if isinstance(v, list) else 1


def depth(v: Any) -> int:
    inside = list(v.values()) if isinstance(v, dict) else v
    return 1 + max(map(depth, inside), default=0) if isinstance(v, list | dict) else 0


@pytest.mark.parametrize("seed", range(20))
def test_objects_and_depth_are_counted_exactly(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        v = value(rng, 4)
        data = msgpack.packb(v)
        check_objects(data, "it", max_objects=objects(v), max_depth=depth(v))
        check_objects(memoryview(data), "it", max_objects=objects(v), max_depth=depth(v))
        with pytest.raises(TooLarge, match="it holds more than"):
            check_objects(data, "it", max_objects=objects(v) - 1)
        if depth(v):
            with pytest.raises(TooLarge, match="it is nested deeper than"):
                check_objects(data, "it", max_depth=depth(v) - 1)
        for _ in range(10):  # cut short: the decoder's business
            check_objects(data[: rng.randrange(len(data) + 1)], "it")


def test_sizes_at_and_over_the_limit() -> None:
    check_sizes(MAX_FRAMES, MAX_BATCH_BYTES, MAX_HEADER_BYTES)
    for over in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        at = (MAX_FRAMES, MAX_BATCH_BYTES, MAX_HEADER_BYTES)
        with pytest.raises(TooLarge, match="refused"):
            check_sizes(*(a + b for a, b in zip(at, over, strict=True)))


def test_which_types_bound_their_depth() -> None:
    assert not may_be_deep(Flat)
    assert may_be_deep(Tree)
    assert may_be_deep(Free)
    assert may_be_deep(Late)


def decode(kind: str, raw: bytes) -> Message:
    return CODEC.decode(wire.Body(kind, msgspec.Raw(raw)), [], "peer/1")


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\x01"


@pytest.mark.parametrize("kind", ["Free", "Late"])
def test_depth_is_bounded_where_the_type_does_not(kind: str) -> None:
    decode(kind, nested(MAX_DEPTH))
    with pytest.raises(TooLarge, match=f"{kind} from peer/1 is nested deeper than {MAX_DEPTH}"):
        decode(kind, nested(MAX_DEPTH + 1))
    tree = Tree(0)
    for _ in range(MAX_DEPTH):
        tree = Tree(1, (tree,))
    body, _ = CODEC.encode(tree)
    with pytest.raises(TooLarge, match="Tree from peer/1 is nested deeper"):
        CODEC.decode(body, [], "peer/1")


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1000, 100_000, 2_000_000])
@pytest.mark.parametrize("code", [b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"])
def test_any_depth_is_a_declared_error(levels: int, code: bytes) -> None:
    hostile = code * levels + b"\x01"
    for kind in ("Flat", "Tree", "Free", "Late"):
        for raw in (b"\x92\x01" + hostile, b"\x91" + hostile):
            with pytest.raises(WireError):
                decode(kind, raw)
    with contextlib.suppress(WireError):  # a field of a later version is skipped, or is too deep
        assert decode("Flat", b"\x93\x01\x90" + hostile) == Flat(1)
    for bad in (hostile, b"\x9a" + hostile, b"\x95\x01\xa1r\xa1s\x01" + hostile):
        with pytest.raises(WireError):
            CODEC.decode_batch([bad])


HOSTILE = {
    "array of 2^32-1": b"\xdd\xff\xff\xff\xff",
    "map of 2^32-1": b"\xdf\xff\xff\xff\xff",
    "text of 2^32-1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32-1": b"\xc6\xff\xff\xff\xff",
    "extension of 2^32-1": b"\xc9\xff\xff\xff\xff\x01",
    "text that is none": b"\xa2\xff\xfe",
    "a half surrogate": b"\xa3\xed\xa0\x80",
    "integer over 64 bits": b"\xcf" + b"\xff" * 8,
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
    "the code that is none": b"\xc1",
    "time out of range": b"\xc7\x0c\xff" + b"\xff" * 12,
    "time of one byte": b"\xd4\xff\x01",
    "keys that cannot be": b"\x81\x81\x01\x02\x02",
    "nothing": b"",
    "more than one": b"\x01\x02",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_declared_errors_and_take_no_memory(name: str) -> None:
    hostile = HOSTILE[name]
    for kind in ("Flat", "Tree", "Free"):
        for raw in (hostile, b"\x91" + hostile, b"\x92\x01" + hostile, b"\x92\x01\x91" + hostile):
            tracemalloc.start()
            with contextlib.suppress(WireError):
                decode(kind, raw)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1_000_000
    with pytest.raises(WireError):
        decode("Flat", b"\x91" + hostile + b"\xc1")


@pytest.mark.parametrize("unit", [b"\x90", b"\xc0", b"\xa0", b"\x80", b"\xcc\x01"])
def test_many_small_objects_are_refused_before_they_are_made(unit: bytes) -> None:
    count = MAX_OBJECTS + 1
    body = b"\x91\xdd" + count.to_bytes(4, "big") + unit * count
    header = b"\x95\x01\xa1r\xa1s\x01" + body
    traced = unit == b"\xc0"  # the walk over the others, traced, takes seconds
    if traced:
        tracemalloc.start()
    with pytest.raises(TooLarge, match=f"more than {MAX_OBJECTS} objects"):
        CODEC.decode_batch([header])
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


def test_a_large_header_of_few_objects_passes() -> None:
    body, _ = CODEC.encode(Flat(1, tuple("x" * 65_536 for _ in range(100))))
    head = wire.Head(wire.PROTOCOL, "run", "b/0~1", "a/0~1", 0, 1)
    header = CODEC.encode_batch(head, [(1, wire.Tell(body))])
    assert len(header) > MAX_OBJECTS
    ((_, op),) = CODEC.decode_batch([header]).ops
    assert isinstance(op, wire.Tell)
    assert CODEC.decode(op.body, []) == Flat(1, tuple("x" * 65_536 for _ in range(100)))
