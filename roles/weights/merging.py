"""Adapters laid over a base: base + alpha / rank * B A, the same bits wherever it is computed.

    left = B * (alpha / rank)
    sum  = left[:, 0] A[0], + left[:, 1] A[1], ...      each product rounded, then each sum
    out  = round(sum + base)                            once, to the dtype of the whole

All in fp32, in this order, product and sum apart: no library's matrix product is asked, whose order
of sums is its own, so a trainer on a GPU and generators on any CPU come to the same bits, and a
digest can say so. It costs two passes over a tile for each row of A; a tile lies in a core's cache,
and tiles are spread over threads (numpy lets go of the interpreter meanwhile).

numpy has no bfloat16: its bits are uint16 here. Called by `intake.py` in a thread; the trainer does
the same sums with torch (`trainer/learner_lora.py`), and a test compares the two.
"""

from __future__ import annotations

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

TILE = 2**16  # numbers of a tile: sum, product and base fit the second-level cache of a core
_TASK = 2**22  # numbers of a piece that one thread takes
_MOST_THREADS = 8
Singles = npt.NDArray[np.float32]


class Stopped(Exception):
    """Nobody wants the whole weights any more."""


class _Piece(NamedTuple):
    """Some rows of a weight, and where they go."""

    base: Array
    out: Array
    left: Singles | None  # of these rows, scaled
    down: Singles | None


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
    scale = np.float32(over.alpha / over.rank)
    pieces: list[_Piece] = []
    for pair, tensor in zip(pairs(base, adapters), plan.tensors, strict=True):
        name = pair.base.name
        left = down = None
        if pair.up is not None and pair.down is not None:
            left = widened(laid[pair.up.name]) * scale
            down = widened(laid[pair.down.name])
        pieces += _cut(given[name], made[name], left, down)
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


def _cut(base: Array, out: Array, left: Singles | None, down: Singles | None) -> list[_Piece]:
    """Cut a weight into pieces of whole rows. What is no matrix is one row."""
    if base.ndim != 2:
        base, out = base.reshape(1, -1), out.reshape(1, -1)
    rows = max(1, _TASK // max(1, base.shape[1]))
    return [
        _Piece(base[a : a + rows], out[a : a + rows], None if left is None else left[a : a + rows],
               down)
        for a in range(0, base.shape[0], rows)
    ]  # fmt: skip


def _lay(piece: _Piece, narrow: bool) -> None:
    """Fill a piece, tile by tile."""
    num, width = piece.base.shape
    rows = max(1, TILE // max(1, width))
    whole, product = (np.empty((min(rows, num), width), np.float32) for _ in range(2))
    for a in range(0, num, rows):
        base, out = piece.base[a : a + rows], piece.out[a : a + rows]
        if piece.left is None or piece.down is None:
            wide = base
            if base.dtype != out.dtype:
                wide = narrowed(widened(base)) if narrow else widened(base)
            np.copyto(out, wide)
            continue
        total, part = whole[: len(base)], product[: len(base)]
        left = piece.left[a : a + rows]
        np.multiply(left[:, :1], piece.down[0], out=total)
        for k in range(1, len(piece.down)):
            np.multiply(left[:, k : k + 1], piece.down[k], out=part)
            np.add(total, part, out=total)
        np.add(total, widened(base), out=total)
        np.copyto(out, narrowed(total) if narrow else total)
