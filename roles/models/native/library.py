"""The kernels as a library that is called with tensors.

Knows the kernels' arguments; knows neither models nor how the library was built (`built.py`).
Called by `block.py`.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

from realnet.compiled import SWITCH
from realnet.errors import RealnetError
from realnet.roles.models.native.built import is_whole, path_here

_OR = " (or: python -m realnet.roles.models.native)"  # an installed package has no Makefile
LANES = 16  # widths and head sizes are multiples of it

_P, _N, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_KERNELS = {
    "norm_forward": (_P, _P, _P, _N, _N, _F),
    "norm_backward": (_P, _P, _P, _P, _P, _N, _N),
    "rope": (_P, _P, _P, _N, _N, _N, _N, _F),
    "swiglu_forward": (_P, _P, _N, _N),
    "swiglu_backward": (_P, _P, _P, _N, _N),
    "attention_forward": (_P, _P, _P, _P, _N, _N, _N, _N, _N, _F),
    "attention_decode": (_P, _P, _P, _P, _P, _N, _N, _N, _N, _N, _F),
    "attention_backward": (_P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _N, _N, _F),
}


class Kernels:
    """The kernels of a library. Tensors are contiguous fp32 (runs: int32) on the CPU."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the library does not load, AttributeError when it is another."""
        if not is_whole(path):
            raise OSError(f"{path} is not there, or not as it was built")
        library = ctypes.CDLL(str(path))
        self._call = {}
        for name, arguments in _KERNELS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = ctypes.c_int if name.startswith("attention") else None
            self._call[name] = function

    def norm(self, x: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x [T, width] over the root of its mean square, and that factor [T]."""
        normed, factor = torch.empty_like(x), x.new_empty(x.shape[0])
        self._call["norm_forward"](*_at(x, normed, factor), *x.shape, epsilon)
        return normed, factor

    def norm_backward(
        self,
        gradient: torch.Tensor,
        normed: torch.Tensor,
        factor: torch.Tensor,
        beside: torch.Tensor,
    ) -> torch.Tensor:
        """Return `beside`, plus the gradient of what was normed. Shapes: [T, width]."""
        result = torch.empty_like(beside)
        arrays = _at(gradient, normed, factor, beside, result)
        self._call["norm_backward"](*arrays, *normed.shape)
        return result

    def rope(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int, sign: float
    ) -> None:
        """Turn the first `heads` heads of x [T, ...] in place; cos, sin [T, dim]. -1: back."""
        self._call["rope"](*_at(x, cos, sin), *x.shape, heads, cos.shape[1], sign)

    def swiglu(self, both: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up [T, width] of both [T, 2 x width]."""
        result = both.new_empty(both.shape[0], both.shape[1] // 2)
        self._call["swiglu_forward"](*_at(both, result), *result.shape)
        return result

    def swiglu_backward(self, both: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of both [T, 2 x width]."""
        result = torch.empty_like(both)
        self._call["swiglu_backward"](*_at(both, gradient, result), *gradient.shape)
        return result

    def attend(
        self, qkv: torch.Tensor, runs: torch.Tensor, longest: int, heads: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return attention [T, query heads x dim], and the log of each sum [T, query heads].

        qkv [T, (query heads + 2 x kv heads) x dim]; `heads` are (query, kv); `runs` are a
        packing's. Raises MemoryError.
        """
        dim = qkv.shape[1] // (heads[0] + 2 * heads[1])
        seen, peak = qkv.new_empty(len(qkv), heads[0] * dim), qkv.new_empty(len(qkv), heads[0])
        arrays = _at(qkv, runs, seen, peak)
        _checked(
            self._call["attention_forward"](*arrays, len(runs), longest, *heads, dim, dim**-0.5)
        )
        return seen, peak

    def decode(
        self,
        qkv: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        heads: tuple[int, int],
    ) -> torch.Tensor:
        """Write one token's key and value in each of the first n rows; return what it sees.

        qkv [n, (query heads + 2 x kv heads) x dim]; keys, values [rows, kv heads, context, dim];
        positions [n] (int64). Returns [n, query heads x dim]. Raises MemoryError, and RealnetError
        for a position that is not below context.
        """
        context, dim = keys.shape[2:]
        seen = qkv.new_empty(len(qkv), heads[0] * dim)
        where = positions.contiguous()
        arrays = (*_at(qkv, keys, values), where.data_ptr(), *_at(seen))
        sizes = (len(qkv), *heads, dim, context)
        _checked(self._call["attention_decode"](*arrays, *sizes, dim**-0.5))
        return seen

    def attend_backward(
        self,
        qkv: torch.Tensor,
        runs: torch.Tensor,
        longest: int,
        heads: tuple[int, int],
        seen: torch.Tensor,
        peak: torch.Tensor,
        gradient: torch.Tensor,
    ) -> torch.Tensor:
        """Return the gradient of qkv. Raises MemoryError."""
        dim = qkv.shape[1] // (heads[0] + 2 * heads[1])
        result = torch.empty_like(qkv)
        arrays = _at(qkv, runs, seen, peak, gradient, result)
        sizes = (len(qkv), len(runs), longest, *heads, dim)
        _checked(self._call["attention_backward"](*arrays, *sizes, dim**-0.5))
        return result


@functools.cache
def kernels() -> Kernels | None:
    """Return the kernels that were built for this machine; None: there are none, or none wanted.

    REALNET_COMPILED=0 wants none; with 1 there must be: raises RealnetError.
    """
    switch = os.environ.get(SWITCH)
    if switch == "0":
        return None
    try:
        return Kernels(path_here())
    except (OSError, AttributeError) as error:
        if switch == "1":
            raise RealnetError(f"{SWITCH}=1, and {error}: make kernels{_OR}") from None
        return None


def _at(*tensors: torch.Tensor) -> list[int]:
    """Return where tensors lie. Raises RealnetError for one that a kernel would misread."""
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.device.type != "cpu" or tensor.itemsize != 4:
            raise RealnetError(f"a kernel reads contiguous fp32 on the CPU, and this is {tensor!r}")
    return [tensor.data_ptr() for tensor in tensors]


def _checked(result: int) -> None:
    if result == -1:
        raise MemoryError("there is no memory for one sequence's keys and values")
    if result:
        raise RealnetError(
            "a token stands outside of the context that keys and values have room for"
        )
