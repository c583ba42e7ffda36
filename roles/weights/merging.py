"""Adapters laid over a base: base + alpha / rank * B A, the same bits wherever it is computed.

    left  = B * (alpha / rank), right = A       in fp64, each row of left and each column of right
                                                rounded to whole multiples of a power of two
    sum   = left right                          in fp64: exact
    whole = sum, rounded to fp32, + base        rounded once more, to the dtype of the whole

A library's matrix product adds up in an order of its own, so its last bits are another machine's
secret. Here there are none: the factors have so few digits that every partial sum is a whole number
of steps below 2^53, and whatever adds them up, a CPU's library or a GPU's, has the same result. It
is closer to the true sum than fp32 would come (24 digits at rank 16). So a trainer on a GPU and
generators on any CPU come to the same bits, and a digest can say so.

numpy has no bfloat16: its bits are uint16 here. Called by `intake.py` in a thread; the trainer does
the same sums with torch (`trainer/learner_lora.py`), and a test compares the two.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from realnet.roles.messages import Manifest, Tensor
from realnet.roles.weights.adapters import pairs, whole_layout
from realnet.roles.weights.digests import seal
from realnet.roles.weights.layout import ALIGN, Array, full_dtype, tensors

# A tile's product is so small that a library makes it with one thread: the threads are ours.
COLUMNS = 512
_PRODUCTS = 2**18
_TASK = 2**22  # numbers of a piece that one thread takes
_MOST_THREADS = 8
_EXACT = 53  # binary digits of a whole number in fp64
_BIAS, _MANTISSA = 1023, 52  # of fp64
Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class Stopped(Exception):
    """Nobody wants the whole weights any more."""


class _Piece(NamedTuple):
    """Some rows of a weight, and where they go."""

    base: Array
    out: Array
    left: Doubles | None  # of these rows
    right: Doubles | None


def lay_over(
    base: Manifest,
    base_bytes: memoryview,
    adapters: Manifest,
    adapter_bytes: memoryview | bytearray,
    out: memoryview,
    stopped: Callable[[], bool] = lambda: False,
) -> Manifest:
    """Write the whole weights into `out`; return what lies there, with digests.

    Raises RealnetError for adapters that do not fit the base, Stopped when it is told to stop.
    """
    plan = whole_layout(base, adapters)
    given = tensors(base, base_bytes)
    laid = tensors(adapters, adapter_bytes)
    bits = np.frombuffer(out, np.uint8)[: plan.num_bytes]
    made = tensors(plan, bits)
    over = adapters.over
    assert over is not None
    digits = digits_of(over.rank)
    pieces: list[_Piece] = []
    for pair, tensor in zip(pairs(base, adapters), plan.tensors, strict=True):
        name = pair.base.name
        left = right = None
        if pair.up is not None and pair.down is not None:
            scaled = widened(laid[pair.up.name]).astype(np.float64) * (over.alpha / over.rank)
            left = stepped(scaled, 1, digits)
            right = stepped(widened(laid[pair.down.name]).astype(np.float64), 0, digits)
        pieces += _cut(given[name], made[name], left, right)
        end = tensor.offset_bytes + tensor.num_bytes
        bits[end : end + -end % ALIGN] = 0
    narrow = _narrow_to(plan.tensors)

    def work(piece: _Piece) -> None:
        if stopped():
            raise Stopped
        _lay(piece, narrow)

    with ThreadPoolExecutor(threads(), thread_name_prefix="lay over") as pool:
        list(pool.map(work, pieces))
    return seal(plan, out)


def threads() -> int:
    """Return how many threads share the sums."""
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))


def digits_of(rank: int) -> int:
    """Return how many binary digits a factor may have: sums of so many products are exact."""
    return (_EXACT - (rank - 1).bit_length()) // 2


def stepped(factor: Doubles, axis: int, digits: int) -> Doubles:
    """Round numbers to multiples of one power of two along an axis, so that none has more digits.

    The largest has this many, or is the power of two above them.
    """
    largest = np.abs(factor).max(axis=axis, keepdims=True, initial=0.0)
    _, exponent = np.frexp(largest)
    step = ((exponent.astype(np.int64) - digits + _BIAS) << _MANTISSA).view(np.float64)
    found: Doubles = np.rint(factor / step) * step
    return found


def widened(array: Array) -> Singles:
    """Return fp32 of fp32, or of bf16 as its bits."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def narrowed(array: Singles) -> npt.NDArray[np.uint16]:
    """Return the bits of the nearest bf16, of two the even one."""
    bits = array.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    found = rounded.astype(np.uint16)
    broken = np.isnan(array)
    if broken.any():
        found[broken] = 0x7FC0
    return found


def _narrow_to(planned: tuple[Tensor, ...]) -> bool:
    return any(full_dtype(tensor.dtype) == "bfloat16" for tensor in planned)


def _cut(base: Array, out: Array, left: Doubles | None, right: Doubles | None) -> list[_Piece]:
    """Cut a weight into pieces of whole rows. What is no matrix is one row."""
    if base.ndim != 2:
        base, out = base.reshape(1, -1), out.reshape(1, -1)
    rows = max(1, _TASK // max(1, base.shape[1]))
    return [
        _Piece(
            *(base[a : a + rows], out[a : a + rows]),
            *(None if left is None else left[a : a + rows], right),
        )
        for a in range(0, base.shape[0], rows)
    ]


def _lay(piece: _Piece, narrow: bool) -> None:
    """Fill a piece, tile by tile."""
    if piece.left is None or piece.right is None:
        _cast(piece.base, piece.out, narrow)
        return
    num, width = piece.base.shape
    rows = max(1, _PRODUCTS // COLUMNS // len(piece.right))
    for a, c in itertools.product(range(0, num, rows), range(0, width, COLUMNS)):
        tile = np.s_[a : a + rows, c : c + COLUMNS]
        exact = np.matmul(piece.left[a : a + rows], piece.right[:, c : c + COLUMNS])
        total = exact.astype(np.float32)
        np.add(total, widened(piece.base[tile]), out=total)
        piece.out[tile] = narrowed(total) if narrow else total


def _cast(base: Array, out: Array, narrow: bool) -> None:
    """Copy what has no adapter, rounded if need be."""
    if base.dtype == out.dtype:
        np.copyto(out, base)
    else:
        np.copyto(out, narrowed(widened(base)) if narrow else widened(base))
