"""Arrays and tensors to bytes and back, exactly: numpy arrays, and torch tensors on the CPU.

An array is a MessagePack extension: dtype code, dimensions, shape, then its bytes, or the number of
the frame that holds them. Numpy and torch write the same bytes; the type of the record's field says
which of the two comes out. torch is used only in a program that has imported it.

What comes out shares the memory of the message. Numpy arrays are read-only; torch has no such mark,
so the rule is the same by word: never write into what is in a record, `clone()` it first.
Gradients do not travel: a tensor comes out as if it had been detached.

Knows nothing of records or sockets. Called by `codec.py`.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Frame = bytes | bytearray | memoryview
Array = npt.NDArray[Any]

INLINE, FRAME = 1, 2
MAX_NDIM = 8
ALIGNED_BYTES = 8
COPY_BELOW_BYTES = 64 * 1024
# Codes are places in this table: it grows at the end and never changes.
NUMPY_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
TORCH_DTYPES = (  # those that numpy has not got, with the bytes of one element
    ("bfloat16", 2),
    *((f"float8_{name}", 1) for name in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")),
)
DTYPES = (*NUMPY_DTYPES, *(name for name, _ in TORCH_DTYPES))
_NUMPY = tuple(np.dtype(name) for name in NUMPY_DTYPES)
_CODE = {dtype: i for i, dtype in enumerate(_NUMPY)}
_CODE_OF_NAME = {name: i for i, name in enumerate(DTYPES)}
_SHAPES = tuple(struct.Struct(f"<{ndim}q") for ndim in range(MAX_NDIM + 1))
_HEADS = tuple(struct.Struct(f"<BB{ndim}q") for ndim in range(MAX_NDIM + 1))
_NUMBER = struct.Struct("<I")
_BYTES = (*(d.itemsize for d in _NUMPY), *(size for _, size in TORCH_DTYPES))


def pack(value: Any, inline_bytes: int, frames: list[Frame]) -> msgspec.msgpack.Ext:
    """Return the extension of an array; one of `inline_bytes` or more is added to `frames`.

    Raises TypeError for what is no array, or an array that does not travel, and says why.
    """
    if isinstance(value, np.ndarray):
        shape: tuple[int, ...] = value.shape
        code = _CODE.get(value.dtype)
        if code is None:
            raise TypeError(
                f"arrays of dtype {value.dtype} do not travel; use one of {', '.join(NUMPY_DTYPES)}"
            )
    else:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(value, torch.Tensor):
            raise TypeError(
                f"a {type(value).__name__} does not travel: plain values, records, numpy arrays "
                "and torch tensors do"
            )
        shape = tuple(value.shape)
        code, value = _plain(torch, value)
    if len(shape) > MAX_NDIM:
        raise TypeError(f"an array of {len(shape)} dimensions does not travel, {MAX_NDIM} at most")
    head = _HEADS[len(shape)].pack(code, len(shape), *shape)
    data = np.ascontiguousarray(value)
    if data.nbytes < inline_bytes or not data.nbytes:  # an empty view cannot be cast
        return msgspec.msgpack.Ext(INLINE, b"".join((head, data.reshape(-1).view(np.uint8).data)))
    frames.append(data.data.cast("B").toreadonly())
    return msgspec.msgpack.Ext(FRAME, head + _NUMBER.pack(len(frames) - 1))


def _plain(torch: Any, tensor: Any) -> tuple[int, Array]:
    """Return the dtype code of a tensor and its memory as a numpy array."""
    if tensor.device.type != "cpu":
        raise TypeError(
            f"a tensor on {tensor.device} does not travel: send tensor.cpu(), so that it is you "
            "who says when to wait for the device"
        )
    name = str(tensor.dtype).removeprefix("torch.")
    code = _CODE_OF_NAME.get(name)
    if code is None or tensor.layout != torch.strided:
        raise TypeError(
            f"tensors of {tensor.layout} and dtype {name} do not travel; use dense ones of "
            f"{', '.join(DTYPES)}"
        )
    try:
        plain = tensor.detach().resolve_neg().contiguous()
        if code >= len(NUMPY_DTYPES):
            empty = torch.empty(0, dtype=torch.uint8)  # an empty view has no stride to divide
            plain = plain.reshape(-1).view(torch.uint8) if plain.numel() else empty
        array: Array = plain.numpy()
    except (RuntimeError, NotImplementedError) as error:
        raise TypeError(f"a {type(tensor).__name__} has no memory to send: {error}") from None
    return code, array


def unpack(code: int, data: memoryview, frames: Sequence[Frame]) -> Any:
    """Return the array of an extension: a numpy array, or a tensor when numpy has no such dtype.

    Raises ValueError for anything that `pack` would not have written.
    """
    if len(data) < 2:
        raise ValueError("an array without a head")
    dtype_code, ndim = data[0], data[1]
    if ndim > MAX_NDIM or dtype_code >= len(DTYPES) or len(data) < 2 + 8 * ndim:
        raise ValueError(f"an array of dtype code {dtype_code} and {ndim} dimensions is not known")
    shape = _SHAPES[ndim].unpack_from(data, 2)
    payload: Frame
    if code == FRAME:
        number = int.from_bytes(data[2 + 8 * ndim :], "little")
        if len(data) != 6 + 8 * ndim or number >= len(frames):
            raise ValueError(
                f"an array says it is in frame {number}, and {len(frames)} frames came with it"
            )
        payload = frames[number]
        if type(payload) is not bytes:  # those are read-only as they are
            payload = memoryview(payload).toreadonly()
    elif code == INLINE:
        payload = data[2 + 8 * ndim :]
    else:
        raise ValueError(f"extension type {code} is not known")
    num_bytes = _BYTES[dtype_code] * (shape[0] if ndim == 1 else math.prod(shape))
    if num_bytes != len(payload) or (ndim > 1 and min(shape) < 0):
        raise ValueError(
            f"an array of {DTYPES[dtype_code]} and shape {list(shape)} came with {len(payload)} "
            "bytes"
        )
    if dtype_code >= len(NUMPY_DTYPES):
        return _tensor_of_name(DTYPES[dtype_code], shape, payload)
    array: Array = np.frombuffer(payload, _NUMPY[dtype_code])  # by name it takes twice as long
    return array.reshape(shape) if ndim != 1 else array


class Damaged:
    """Stands where an array should be, until the decoder says which field that is."""

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text


def fit(kind: Any, value: Any) -> Any:
    """Return an array as the type of its field wants it. Raises ValueError when it cannot be."""
    torch: Any = sys.modules.get("torch")
    if type(value) is np.ndarray and torch is None:
        return value
    tensor_type: Any = getattr(torch, "Tensor", Damaged)
    if type(value) is np.ndarray:
        return tensor_of(value) if kind is tensor_type else value
    if type(value) is Damaged:
        raise ValueError(value.text)
    if type(value) is tensor_type:
        if kind is tensor_type:
            return value
        raise ValueError(
            f"a {str(value.dtype).removeprefix('torch.')} array came, which numpy has not got: "
            "type the field torch.Tensor, or send another dtype"
        )
    raise ValueError(f"expected an array, got {type(value).__name__}")


def tensor_of(array: Array) -> Any:
    """Return a torch tensor of a read-only numpy array: its memory if large, else a copy."""
    torch: Any = sys.modules["torch"]
    address = array.__array_interface__["data"][0]
    if array.nbytes < COPY_BELOW_BYTES or address % ALIGNED_BYTES:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(np.asarray(_Unmarked(array)))


class _Unmarked:
    """The memory of a read-only array without the mark, which torch only answers with a warning."""

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: Array):
        self.array = array  # keeps the memory alive
        interface = array.__array_interface__
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def _tensor_of_name(name: str, shape: tuple[int, ...], payload: Frame) -> Any:
    torch = sys.modules.get("torch")
    dtype = getattr(torch, name, None)
    if torch is None or dtype is None:
        raise ValueError(
            f"a {name} array came, which numpy has not got, and this process has not imported a "
            "torch that has"
        )
    plain: Array = np.frombuffer(payload, dtype=np.uint8)
    try:
        if not len(plain):
            return torch.empty(shape, dtype=dtype)
        return tensor_of(plain).view(dtype).reshape(shape)
    except RuntimeError as error:
        raise ValueError(f"an array of {name} and shape {list(shape)}: {error}") from None
