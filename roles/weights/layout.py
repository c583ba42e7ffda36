"""Where each tensor lies in a version's bytes.

Tensors follow each other at multiples of 64 bytes; what lies between is zero, so that digests cover
everything. Tensors of neighbouring layers make a bucket. Every rank of a trainer comes to the same
layout, since it follows from names and global shapes alone. numpy has no bfloat16: its bits travel
as uint16.

Knows nothing of where the bytes are kept, or of digests. Called by the trainer's publisher and by
generators; `slices.py` places the slices of single ranks, `digests.py` fills and checks.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from realnet.errors import RealnetError, ensure, listed
from realnet.roles.messages import Bucket, Manifest, Tensor, Version

ALIGN = 64
BUCKET_BYTES = 64 * 2**20
Array = npt.NDArray[Any]
_STORED = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


def full_dtype(dtype: str) -> str:
    """Return the whole name of a dtype ("bf16": "bfloat16")."""
    return _SHORT.get(dtype, dtype)


def stored(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype that holds a tensor of this dtype ("bfloat16" or "bf16": uint16)."""
    found = _STORED.get(full_dtype(dtype))
    if found is None:
        raise RealnetError(f"weights of dtype {dtype!r} do not travel; known: {listed(_STORED)}")
    return np.dtype(found)


def layout(
    version: Version,
    items: Iterable[tuple[str, str, Sequence[int]]],
    bucket_bytes: int = BUCKET_BYTES,
) -> Manifest:
    """Place tensors (name, dtype, shape), each as one slice; digests are left empty."""
    placed: list[Tensor] = []
    names: set[str] = set()
    offset = 0
    for name, dtype, shape in items:
        ensure(name not in names, f"two weights of {version} are called {name}")
        names.add(name)
        size = tuple(int(n) for n in shape)
        num_bytes = math.prod(size) * stored(dtype).itemsize
        placed.append(Tensor(name, dtype, size, (0,) * len(size), size, offset, num_bytes))
        offset += -(-num_bytes // ALIGN) * ALIGN
    return Manifest(version, tuple(placed), offset, "", _buckets(placed, offset, bucket_bytes))


def _buckets(placed: Sequence[Tensor], num_bytes: int, bucket_bytes: int) -> tuple[Bucket, ...]:
    """Cut between layers once a bucket is full, and inside of one that would be twice that."""
    cuts = [0]
    for before, tensor in itertools.pairwise(placed):
        size = tensor.offset_bytes - cuts[-1]
        end = tensor.offset_bytes + tensor.num_bytes - cuts[-1]
        new_layer = _layer(before.name) != _layer(tensor.name)
        if (new_layer and size >= bucket_bytes) or (size and end > 2 * bucket_bytes):
            cuts.append(tensor.offset_bytes)
    if not num_bytes:
        return ()
    return tuple(Bucket(a, b - a) for a, b in zip(cuts, [*cuts[1:], num_bytes], strict=True))


def _layer(name: str) -> str:
    """Return what the tensors of one layer have in common: their name up to its number."""
    found = re.match(r"\D*\d+", name)
    return found.group() if found else name


def tensors(manifest: Manifest, buffer: memoryview | bytes | bytearray | Array) -> dict[str, Array]:
    """Return the tensors of a version as views of its bytes, bfloat16 as uint16.

    Raises RealnetError when a slice does not lie inside the bytes.
    """
    result: dict[str, Array] = {}
    for tensor in manifest.tensors:
        dtype = stored(tensor.dtype)
        count = math.prod(tensor.size)
        inside = 0 <= tensor.offset_bytes <= manifest.num_bytes - tensor.num_bytes
        if not inside or tensor.num_bytes != count * dtype.itemsize:
            raise RealnetError(
                f"the manifest of {manifest.version} puts {tensor.name} {list(tensor.size)} at "
                f"byte {tensor.offset_bytes} with {tensor.num_bytes} bytes: another realnet made it"
            )
        flat = np.frombuffer(buffer, dtype=dtype, count=count, offset=tensor.offset_bytes)
        result[tensor.name] = flat.reshape(tensor.size)
    return result
