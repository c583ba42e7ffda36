"""Where each tensor lies in a version's bytes.

Tensors follow each other at multiples of 64 bytes; what lies between is zero, so that one digest
covers everything. numpy has no bfloat16: its bits travel as uint16.

Knows nothing of where the bytes are kept. Called by the trainer's publisher and by generators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from realnet.errors import RealnetError, ensure, listed
from realnet.roles.messages import Manifest, Tensor, Version

ALIGN = 64
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


def stored(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype that holds a tensor of this dtype ("bfloat16" or "bf16": uint16)."""
    found = _STORED.get(_SHORT.get(dtype, dtype))
    if found is None:
        raise RealnetError(f"weights of dtype {dtype!r} do not travel; known: {listed(_STORED)}")
    return np.dtype(found)


def layout(version: Version, items: Iterable[tuple[str, str, Sequence[int]]]) -> Manifest:
    """Place tensors (name, dtype, shape), each as one slice; the digest is left empty."""
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
    return Manifest(version, tuple(placed), offset, "")


def fill(manifest: Manifest, view: memoryview, arrays: Iterable[Array]) -> str:
    """Copy arrays, in the manifest's order, into `view` [num_bytes]; return the digest."""
    bytes_ = np.frombuffer(view, dtype=np.uint8, count=manifest.num_bytes)
    ensure(bytes_.flags.writeable, f"the room for {manifest.version} is read-only")
    for tensor, array in zip(manifest.tensors, arrays, strict=True):
        ensure(
            array.shape == tensor.size and array.dtype == stored(tensor.dtype),
            f"{tensor.name} is {array.dtype}{list(array.shape)}, planned {tensor.dtype}"
            f"{list(tensor.size)}",
        )
        end = tensor.offset_bytes + tensor.num_bytes
        target = bytes_[tensor.offset_bytes : end].view(array.dtype).reshape(array.shape)
        np.copyto(target, array)
        bytes_[end : end + -end % ALIGN] = 0  # the slot held another version before
    return digest(view[: manifest.num_bytes])


def digest(data: memoryview | bytes | bytearray) -> str:
    """Return xxh3_128 of the bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


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
