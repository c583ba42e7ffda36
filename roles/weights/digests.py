"""Whether a version's bytes are what was written: digests of its buckets, made and checked.

Buckets are checked side by side, two at a time: xxh3 runs at the speed of one core's memory.

Knows layouts; knows nothing of where the bytes are kept. Called by whoever writes or reads them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from realnet.errors import RealnetError, ensure
from realnet.roles.messages import Bucket, Manifest, Tensor
from realnet.roles.weights.layout import ALIGN, Array, stored

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
_THREADS = 2
_ALONE_BYTES = 16 * 2**20  # less is not worth a thread


class WeightsDamaged(RealnetError):
    """The bytes of a version differ from what was announced."""


class WeightsGone(RealnetError):
    """A version cannot be had any more where it was announced."""


def digest(data: Any) -> str:
    """Return xxh3_128 of the bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


def fill(manifest: Manifest, view: memoryview, arrays: Iterable[Array]) -> Manifest:
    """Copy arrays, in the manifest's order, into `view` [num_bytes]; return it with its digests.

    The digests are those of the arrays, not of what came to be in `view`: who checks that later
    finds what went wrong in between.
    """
    bytes_ = np.frombuffer(view, dtype=np.uint8, count=manifest.num_bytes)
    ensure(bytes_.flags.writeable, f"the room for {manifest.version} is read-only")
    groups = _groups(manifest, arrays)
    if manifest.num_bytes < _ALONE_BYTES:
        for group in groups:
            _copy(group, bytes_)
        return sealed(manifest, [_sum_up(group) for group in groups])
    # One core copies while the other one sums up.
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as pool:
        summed = [pool.submit(_sum_up, group) for group in groups]
        for group in groups:
            _copy(group, bytes_)
        return sealed(manifest, [s.result() for s in summed])


class Sum:
    """Sums up the arrays of a version as they come, in the manifest's order; none is kept."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._left = deque(manifest.tensors)
        self._sums = [xxhash.xxh3_128() for _ in manifest.buckets]
        self._starts = [b.offset_bytes for b in manifest.buckets]

    def add(self, name: str, array: Array) -> None:
        """Take the next array."""
        ensure(
            bool(self._left) and self._left[0].name == name,
            f"{name} of {self._manifest.version} is not the next to be summed up",
        )
        tensor = self._left.popleft()
        _check_array(tensor, array)
        if tensor.num_bytes:
            _add_to(self._sums[bisect_right(self._starts, tensor.offset_bytes) - 1], tensor, array)

    def sealed(self) -> Manifest:
        """Return the manifest with its digests, when all arrays have come."""
        ensure(not self._left, f"{self._manifest.version} was summed up in part")
        return sealed(self._manifest, [str(s.hexdigest()) for s in self._sums])


def summed_up(manifest: Manifest, arrays: Iterable[Array]) -> Manifest:
    """Return a manifest with the digests of arrays, in its order, that are not copied."""
    total = Sum(manifest)
    for tensor, array in zip(manifest.tensors, arrays, strict=True):
        total.add(tensor.name, array)
    return total.sealed()


Group = list[tuple[Tensor, Array]]


def _groups(manifest: Manifest, arrays: Iterable[Array]) -> list[Group]:
    """Return the arrays of each bucket, with their places."""
    groups: list[Group] = [[] for _ in manifest.buckets]
    starts = [b.offset_bytes for b in manifest.buckets]
    for tensor, array in zip(manifest.tensors, arrays, strict=True):
        _check_array(tensor, array)
        if tensor.num_bytes:
            groups[bisect_right(starts, tensor.offset_bytes) - 1].append((tensor, array))
    return groups


def _check_array(tensor: Tensor, array: Array) -> None:
    ensure(
        array.shape == tensor.size and array.dtype == stored(tensor.dtype),
        f"{tensor.name} is {array.dtype}{list(array.shape)}, planned {tensor.dtype}"
        f"{list(tensor.size)}",
    )


def _copy(group: Group, bytes_: npt.NDArray[np.uint8]) -> None:
    for tensor, array in group:
        end = tensor.offset_bytes + tensor.num_bytes
        target = bytes_[tensor.offset_bytes : end].view(array.dtype).reshape(array.shape)
        np.copyto(target, array)
        bytes_[end : end + -end % ALIGN] = 0  # the slot held another version before


def _sum_up(group: Group) -> str:
    hasher = xxhash.xxh3_128()
    for tensor, array in group:
        _add_to(hasher, tensor, array)
    return str(hasher.hexdigest())


def _add_to(hasher: Any, tensor: Tensor, array: Array) -> None:
    hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    hasher.update(bytes(-tensor.num_bytes % ALIGN))


def sealed(manifest: Manifest, digests: Sequence[str]) -> Manifest:
    """Return a manifest with the digests of its buckets, and the one that follows from them."""
    buckets = tuple(
        Bucket(b.offset_bytes, b.num_bytes, found)
        for b, found in zip(manifest.buckets, digests, strict=True)
    )
    return msgspec.structs.replace(manifest, digest=chained(buckets), buckets=buckets)


def seal(manifest: Manifest, view: memoryview) -> Manifest:
    """Return a manifest with the digests of the bytes in `view` [num_bytes]."""
    return sealed(manifest, _each(manifest.buckets, view))


def chained(buckets: Iterable[Bucket]) -> str:
    """Return the digest of a version whose buckets have these digests."""
    return digest("".join(b.digest for b in buckets).encode())


def check(manifest: Manifest, view: Buffer, where: str) -> None:
    """Raise WeightsDamaged unless the bytes have the manifest's digests. `where`: for the text."""
    bytes_ = np.frombuffer(view, dtype=np.uint8)
    bad = "its digest differs"
    if not check_buckets(manifest):
        bad = "its buckets do not cover it, or their digests differ from its own"
    elif len(bytes_) < manifest.num_bytes:
        bad = f"{len(bytes_)} bytes are there of {manifest.num_bytes}"
    elif not manifest.buckets:
        if digest(bytes_[: manifest.num_bytes].data) == manifest.digest:
            return
    else:
        found = _each(manifest.buckets, bytes_.data)
        wrong = [i for i, b in enumerate(manifest.buckets) if found[i] != b.digest]
        if not wrong:
            return
        bad = f"the digest differs in bucket {wrong[0]} of {len(found)}"
    raise WeightsDamaged(f"{manifest.version} {where} is damaged ({bad}); it is not used")


def check_buckets(manifest: Manifest) -> bool:
    """Tell whether a manifest's buckets cover its bytes, with digests that make its own."""
    if not manifest.buckets:
        return True
    at = 0
    for bucket in manifest.buckets:
        if bucket.offset_bytes != at or bucket.num_bytes <= 0:
            return False
        at += bucket.num_bytes
    return at == manifest.num_bytes and chained(manifest.buckets) == manifest.digest


def _each(buckets: Sequence[Bucket], view: memoryview) -> list[str]:
    """Return the digests that the buckets have now; of many bytes on two threads."""

    def of(bucket: Bucket) -> str:
        with view[bucket.offset_bytes : bucket.offset_bytes + bucket.num_bytes] as part:
            return digest(part)

    if sum(b.num_bytes for b in buckets) < _ALONE_BYTES:
        return [of(b) for b in buckets]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digest") as pool:
        return list(pool.map(of, buckets))
