"""Damage for messages, at random and repeatable: bits, cuts, splices, lengths, types, numbers.

Half of it is done to the bytes; half to the MessagePack values in them, which gives messages that
are well-formed and wrong. Knows nothing of what the bytes mean. Called by `fuzz.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]

from realnet.codec import Frame

LENGTHS = (0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF)
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63)
HOSTILE = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xc1",
    b"\x91" * 2000,
    b"\x81\xa0" * 2000,
    b"\xa2\xff\xfe",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xcb\x7f\xf0\0\0\0\0\0\0",
    b"\xc7\x0c\xff" + b"\xff" * 12,
)
Bytes = Callable[[random.Random, bytearray, bytes], None]


def mutated(rng: random.Random, frames: Sequence[Frame], others: Sequence[bytes]) -> list[Frame]:
    """Return a damaged copy of a message. `others` are headers of other messages, to splice in."""
    out: list[Frame] = list(frames)
    if rng.random() < 0.1:
        _frames(rng, out)
    if out and rng.random() < 0.95:
        place = rng.randrange(len(out)) if rng.random() < 0.1 else 0
        out[place] = damaged(rng, bytes(out[place]), others)
    return out


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a damaged copy of some MessagePack."""
    if rng.random() < 0.5:
        changed = _values(rng, data)
        if changed is not None:
            return changed
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        other = rng.choice(others) if others else data
        rng.choice(_BYTES)(rng, out, other)
    return bytes(out)


def _frames(rng: random.Random, out: list[Frame]) -> None:
    """Drop, double, swap, empty or add frames."""
    how = rng.randrange(5)
    place = rng.randrange(len(out))
    if how == 0:
        del out[place]
    elif how == 1:
        out.insert(place, out[rng.randrange(len(out))])
    elif how == 2:
        out[place], out[-1] = out[-1], out[place]
    elif how == 3:
        out[place] = b""
    else:
        out += [b"x" * rng.choice((0, 1, 8, 1000))] * rng.choice((1, 3, 1100))


def _bits(rng: random.Random, out: bytearray, other: bytes) -> None:
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, out: bytearray, other: bytes) -> None:
    if out:
        out[rng.randrange(len(out))] = rng.randrange(256)


def _cut(rng: random.Random, out: bytearray, other: bytes) -> None:
    del out[rng.randrange(len(out) + 1) :]


def _drop(rng: random.Random, out: bytearray, other: bytes) -> None:
    at = rng.randrange(len(out) + 1)
    del out[at : at + rng.choice((1, 2, 5, 30))]


def _splice(rng: random.Random, out: bytearray, other: bytes) -> None:
    at, start = rng.randrange(len(out) + 1), rng.randrange(len(other) + 1)
    part = other[start : start + rng.choice((1, 4, 16, 100, 1000))]
    out[at : at + rng.choice((0, len(part)))] = part


def _length(rng: random.Random, out: bytearray, other: bytes) -> None:
    if out:
        at = rng.randrange(len(out))
        more = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x00\x10\x00\x00", b""))
        out[at : at + 1 + len(more)] = bytes([rng.choice(LENGTHS)]) + more


def _hostile(rng: random.Random, out: bytearray, other: bytes) -> None:
    at = rng.randrange(len(out) + 1)
    out[at : at + rng.choice((0, 1))] = rng.choice(HOSTILE)


def _random(rng: random.Random, out: bytearray, other: bytes) -> None:
    out[:] = msgpack.packb(any_value(rng, 3))


_BYTES: tuple[Bytes, ...] = (_bits, _bits, _byte, _cut, _drop, _splice, _length, _hostile, _random)


def any_value(rng: random.Random, depth: int) -> Any:
    """Return a random value that MessagePack can say."""
    how = rng.randrange(10 if depth else 8)
    if how == 0:
        return rng.choice((None, True, False))
    if how in (1, 2):
        return rng.choice(NUMBERS)
    if how == 3:
        return rng.choice((0.5, -1.0, 1e300, float("nan"), float("inf")))
    if how == 4:
        return "x" * rng.choice((0, 1, 31, 300))
    if how == 5:
        return rng.choice(("é\u4e2d", "~", "/", "a/0~1", "head/0", "@head"))
    if how == 6:
        return rng.randbytes(rng.choice((0, 1, 16, 300)))
    if how == 7:
        return msgpack.ExtType(rng.choice((0, 1, 2, 3, 127)), rng.randbytes(rng.choice((0, 2, 14))))
    if how == 8:
        return [any_value(rng, depth - 1) for _ in range(rng.randrange(6))]
    return {str(i): any_value(rng, depth - 1) for i in range(rng.randrange(4))}


def _values(rng: random.Random, data: bytes) -> bytes | None:
    """Change one or two values in a message that stays well-formed; None if it is not."""
    try:
        value = msgpack.unpackb(data, strict_map_key=False, max_buffer_size=2**24)
    except (ValueError, TypeError, msgpack.UnpackException):  # more than one object, or none
        return None
    holder = [value]
    for _ in range(rng.choice((1, 1, 2))):
        _change(rng, holder)
    try:
        return bytes(msgpack.packb(holder[0]))
    except (ValueError, TypeError, OverflowError):
        return None


def _places(node: Any, found: list[tuple[Any, Any]]) -> None:
    for place, inside in enumerate(node) if isinstance(node, list) else list(node.items()):
        found.append((node, place))
        if isinstance(inside, list | dict):
            _places(inside, found)


def _change(rng: random.Random, root: list[Any]) -> None:
    """Change one value, any with equal chances."""
    places: list[tuple[Any, Any]] = []
    _places(root, places)
    node, place = rng.choice(places)
    inside = node[place]
    how = rng.randrange(6)
    if how == 0 and node is not root:
        del node[place]
    elif how == 1 and isinstance(node, list) and node is not root:
        node.insert(place, any_value(rng, 2))
    elif how == 2 and isinstance(inside, int):
        node[place] = inside + rng.choice((-1, 1, 2, 1000))
    elif how == 3 and isinstance(inside, bytes | str):
        node[place] = inside[: rng.randrange(len(inside) + 1)]
    elif how == 4 and isinstance(inside, msgpack.ExtType):
        data = bytearray(inside.data)
        rng.choice((_bits, _byte, _cut, _drop))(rng, data, b"")
        node[place] = msgpack.ExtType(inside.code, bytes(data))
    else:
        node[place] = any_value(rng, 2)
