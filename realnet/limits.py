"""What a message may be at most, and the checks that come before decoding.

Sizes and frames are compared. A MessagePack object has at least one byte, so bytes bound objects:
only a body of more bytes than the limit of objects is walked, and the walk makes nothing and stops
at the limit. A typed record is no deeper than its type; only records with `Any`, `Raw` or
themselves in them are walked for depth.

Knows nothing of records' meaning, sockets or arrays. Called by `codec.py`.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import Any

import msgspec
from msgspec import inspect

from realnet.errors import TooLarge

INLINE_BYTES = 64 * 1024
NEAR_INLINE_BYTES = 16 * 1024  # where a frame is one copy through shared memory, and no more
MAX_HEADER_BYTES = 16 * 2**20
MAX_BATCH_BYTES = 2**30 + 3 * MAX_HEADER_BYTES  # a tensor of 1 GiB, and what is said about it
MAX_FRAMES = 1024
MAX_OBJECTS = 2**20
MAX_DEPTH = 64

Data = bytes | bytearray | memoryview
_ONE_BYTE = re.compile(rb"[\x00-\x7f\xe0-\xff\xc0\xc2\xc3]+", re.DOTALL)
_ARRAY, _MAP, _BLOB = 1, 2, 3
_BIG: dict[
    int, tuple[int, struct.Struct, int]
] = {  # code: what it is, its length field, more bytes
    0xDC: (_ARRAY, struct.Struct(">H"), 0),
    0xDD: (_ARRAY, struct.Struct(">I"), 0),
    0xDE: (_MAP, struct.Struct(">H"), 0),
    0xDF: (_MAP, struct.Struct(">I"), 0),
    **{c: (_BLOB, struct.Struct(f), 0) for c, f in ((0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I"))},
    **{c: (_BLOB, struct.Struct(f), 0) for c, f in ((0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I"))},
    **{c: (_BLOB, struct.Struct(f), 1) for c, f in ((0xC7, ">B"), (0xC8, ">H"), (0xC9, ">I"))},
}


def _sizes() -> list[int]:
    """Return for each first byte the bytes of the whole object; 0 when they must be looked up."""
    sizes = [1] * 256
    for code in range(0x80, 0xA0):  # small maps and arrays
        sizes[code] = 0
    for code in range(0xA0, 0xC0):  # small strings
        sizes[code] = 1 + code - 0xA0
    for code in _BIG:
        sizes[code] = 0
    for code, more in ((0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        sizes[code] = 1 + more
    for code, more in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        sizes[code] = 1 + more
    for i in range(5):  # fixed extensions
        sizes[0xD4 + i] = 2 + (1 << i)
    return sizes


_SIZES = _sizes()


def check_sizes(num_frames: int, total_bytes: int, header_bytes: int) -> None:
    """Raise TooLarge when a message is over a limit of size or frames."""
    if num_frames > MAX_FRAMES or total_bytes > MAX_BATCH_BYTES or header_bytes > MAX_HEADER_BYTES:
        raise TooLarge(
            f"refused {total_bytes} bytes in {num_frames} frames, {header_bytes} of them header "
            f"(limits: {MAX_BATCH_BYTES} bytes, {MAX_FRAMES} frames, {MAX_HEADER_BYTES} bytes of "
            "header)"
        )


def check_objects(
    data: Data, what: str, *, max_objects: int = MAX_OBJECTS, max_depth: int | None = None
) -> None:
    """Raise TooLarge when MessagePack `data` holds too many objects, or too deep ones.

    Bytes that are cut short or make no sense pass: the decoder says what is wrong with them.
    """
    at, end, seen = 0, len(data), 0
    left, above = 1, [0]  # objects still to come on this level, and on those above it
    while True:
        while left == 0:
            if not above:
                return
            left = above.pop()
        if at >= end:
            return
        code = data[at]
        size = _SIZES[code]
        inside = -1  # of a container: how many objects
        if size == 1:
            run = _ONE_BYTE.match(data, at, min(end, at + left))
            num = run.end() - at if run else 1
            at, left, seen = at + num, left - num, seen + num
        else:
            left, seen = left - 1, seen + 1
            if size:
                at += size
            elif code < 0xA0:
                inside = code & 15 if code >= 0x90 else 2 * (code & 15)
                at += 1
            else:
                what_it_is, length, more = _BIG[code]
                if at + 1 + length.size > end:
                    return
                (num,) = length.unpack_from(data, at + 1)
                at += 1 + length.size
                if what_it_is == _BLOB:
                    at += num + more
                else:
                    inside = num * what_it_is
        if seen > max_objects:
            raise TooLarge(f"{what} holds more than {max_objects} objects: send arrays, or parts")
        if inside >= 0:
            above.append(left)
            left = inside
            if max_depth is not None and len(above) - 1 > max_depth:
                raise TooLarge(f"{what} is nested deeper than {max_depth} levels")


@functools.cache  # reading a type costs more than the rest of making a codec
def may_be_deep(kind: type[msgspec.Struct]) -> bool:
    """Tell whether the type of a record lets its depth grow without end."""
    try:
        return _deep(inspect.type_info(kind), ())
    except (TypeError, NotImplementedError, RecursionError):
        return True


def _deep(node: Any, inside: tuple[type, ...]) -> bool:
    if isinstance(node, inspect.AnyType | inspect.RawType):
        return True
    cls = getattr(node, "cls", None)
    if isinstance(node, inspect.StructType) and cls is not None:
        if cls in inside:
            return True
        inside = (*inside, cls)
    return any(_deep(child, inside) for child in children(node))


def children(node: inspect.Type) -> list[inspect.Type]:
    """Return the types inside a type."""
    found: list[inspect.Type] = []
    for name in ("item_type", "key_type", "value_type"):
        if hasattr(node, name):
            found.append(getattr(node, name))
    found += getattr(node, "item_types", ())
    found += getattr(node, "types", ())
    found += [field.type for field in getattr(node, "fields", ())]
    return found
