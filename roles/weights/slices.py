"""What one rank of a trainer writes of a version, and when the slices of all make it whole.

A slice is a box inside a whole tensor, whose place in the version's bytes is that of `layout`. So
slices of several ranks, whichever way they cut, come to lie as one tensor, and whoever reads the
version never knows that it was written in parts.

Knows nothing of devices or of where the bytes are kept. Called by publishers and the parameter
server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import msgspec
import numpy as np
import xxhash

from realnet.errors import RealnetError, ensure
from realnet.roles.messages import Manifest, Tensor
from realnet.roles.weights.layout import Array, stored

Box = tuple[Sequence[int], Sequence[int]]  # start and size in each dimension


def part(
    whole: Manifest, slices: Iterable[tuple[str, Sequence[int], Sequence[int]]], writer: int
) -> Manifest:
    """Return what a writer says that it writes: slices (name, start, size) of tensors."""
    known = {t.name: t for t in whole.tensors}
    mine = []
    for name, start, size in slices:
        tensor = known.get(name)
        if tensor is None:
            raise RealnetError(f"{whole.version} has no tensor {name!r} to write a slice of")
        begin, extent = tuple(map(int, start)), tuple(map(int, size))
        num_bytes = math.prod(extent) * stored(tensor.dtype).itemsize
        mine.append(
            msgspec.structs.replace(
                tensor, start=begin, size=extent, num_bytes=num_bytes, shard=writer
            )
        )
    return Manifest(whole.version, tuple(mine), whole.num_bytes, "")


def fits(tensor: Tensor, num_bytes: int) -> bool:
    """Tell whether a slice is a box inside its tensor, and that inside the version's bytes."""
    shape, start, size = tensor.shape, tensor.start, tensor.size
    item = stored(tensor.dtype).itemsize
    return (
        len(shape) == len(start) == len(size)
        and all(
            a >= 0 and n >= 0 and a + n <= whole
            for a, n, whole in zip(start, size, shape, strict=True)
        )
        and tensor.num_bytes == math.prod(size) * item
        and 0 <= tensor.offset_bytes <= num_bytes - math.prod(shape) * item
    )


def box(tensor: Tensor, view: memoryview) -> Array:
    """Return the slice as a part of its whole tensor in the version's bytes."""
    flat = np.frombuffer(
        view, stored(tensor.dtype), count=math.prod(tensor.shape), offset=tensor.offset_bytes
    )
    where: list[Any] = [slice(a, a + n) for a, n in zip(tensor.start, tensor.size, strict=True)]
    found: Array = flat.reshape(tensor.shape)[(*where, ...)]
    return found


def fill_part(mine: Manifest, view: memoryview, arrays: Iterable[Array]) -> Manifest:
    """Copy slices, in the manifest's order, to their places; return it with their digest."""
    hasher = xxhash.xxh3_128()
    for tensor, array in zip(mine.tensors, arrays, strict=True):
        ensure(
            array.shape == tensor.size and array.dtype == stored(tensor.dtype),
            f"{tensor.name} is {array.dtype}{list(array.shape)}, planned {tensor.dtype}"
            f"{list(tensor.size)}",
        )
        np.copyto(box(tensor, view), array)
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return msgspec.structs.replace(mine, digest=hasher.hexdigest())


def digest_part(mine: Manifest, view: memoryview) -> str:
    """Return the digest of slices as they lie in `view`."""
    hasher = xxhash.xxh3_128()
    for tensor in mine.tensors:
        hasher.update(np.ascontiguousarray(box(tensor, view)).reshape(-1).view(np.uint8).data)
    return str(hasher.hexdigest())


def runs(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each run of bytes of a slice, in C order."""
    shape, start, size = tensor.shape, tensor.start, tensor.size
    if 0 in size:
        return
    strides = [stored(tensor.dtype).itemsize]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    inner = len(shape)  # from here on the slice takes whole dimensions
    while inner > 0 and size[inner - 1] == shape[inner - 1]:
        inner -= 1
    outer = max(inner - 1, 0)
    length = math.prod(size[outer:]) * stored(tensor.dtype).itemsize
    if not shape:
        yield tensor.offset_bytes, length
        return
    base = tensor.offset_bytes + start[outer] * strides[outer]
    ranges = [range(a, a + n) for a, n in zip(start[:outer], size[:outer], strict=True)]
    for place in product(*ranges):
        yield base + sum(i * s for i, s in zip(place, strides, strict=False)), length


def untiled(whole: Manifest, slices: Iterable[Tensor]) -> str:
    """Return what keeps slices from tiling every tensor exactly once; empty when they do."""
    of: dict[str, list[Tensor]] = {t.name: [] for t in whole.tensors}
    known = {t.name: t for t in whole.tensors}
    for piece in slices:
        tensor = known.get(piece.name)
        if tensor is None or (piece.dtype, piece.shape, piece.offset_bytes) != (
            *(tensor.dtype, tensor.shape),
            tensor.offset_bytes,
        ):
            return f"the slice of {piece.name} by writer {piece.shard} is of another layout"
        if not fits(piece, whole.num_bytes):
            return f"the slice of {piece.name} by writer {piece.shard} lies outside of it"
        if 0 not in piece.size:
            of[piece.name].append(piece)
    for name, pieces in of.items():
        clash = _overlap(pieces)
        if clash is not None:
            return f"{name} was written twice in part, by writers {clash[0]} and {clash[1]}"
        have = sum(math.prod(p.size) for p in pieces)
        want = math.prod(known[name].shape)
        if have != want:
            return f"{want - have} of the {want} numbers of {name} were written by nobody"
    return ""


def _overlap(pieces: Sequence[Tensor]) -> tuple[int, int] | None:
    ordered = sorted(pieces, key=lambda p: p.start)
    for i, a in enumerate(ordered):
        for b in ordered[i + 1 :]:
            if b.start and b.start[0] >= a.start[0] + a.size[0]:
                break  # sorted by the first dimension: none of the rest touches this one
            if all(
                x < y + m and y < x + n
                for x, n, y, m in zip(a.start, a.size, b.start, b.size, strict=True)
            ):
                return a.shard, b.shard
    return None
