"""A version in chunks: cut at one end, put together and checked at the other.

Chunks of less than a megabyte come in order, straight from the sender's memory; the receiver copies
each into room that it made before, and sums it up while it is in the cache. A bucket whose digest
differs ends the stream at once.

Knows nothing of sockets: it gives and takes records. Called by the parameter server and relays
(`chunks`) and by `receiver.py` (`Assembly`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from realnet.errors import RealnetError, ensure
from realnet.roles.messages import Bucket, Chunk, Manifest
from realnet.roles.weights.digests import Buffer, WeightsDamaged, check_buckets

CHUNK_BYTES = 960 * 1024


def chunks(manifest: Manifest, view: memoryview, offset_bytes: int = 0) -> Iterator[Chunk]:
    """Cut a version's bytes, from an offset on. The chunks are views."""
    if not 0 <= offset_bytes <= manifest.num_bytes:
        raise RealnetError(
            f"{manifest.version} has {manifest.num_bytes} bytes; byte {offset_bytes} was asked for"
        )
    bytes_ = np.frombuffer(view, dtype=np.uint8)[: manifest.num_bytes]
    for at in range(offset_bytes, manifest.num_bytes, CHUNK_BYTES):
        yield Chunk(at, bytes_[at : at + CHUNK_BYTES])


class Assembly:
    """A version that is being received into `out` [num_bytes]."""

    def __init__(self, manifest: Manifest, out: Buffer) -> None:
        self._manifest = manifest
        self._out = np.frombuffer(out, dtype=np.uint8)[: manifest.num_bytes]
        ensure(
            len(self._out) == manifest.num_bytes and self._out.flags.writeable,
            f"{manifest.version} does not fit in the receiver's room",
        )
        if not check_buckets(manifest):
            raise WeightsDamaged(f"the manifest of {manifest.version} contradicts itself")
        whole = Bucket(0, manifest.num_bytes, manifest.digest)
        self._buckets: Sequence[Bucket] = manifest.buckets or (whole,)
        self._next = 0  # the bucket that is being summed up
        self._sum = xxhash.xxh3_128()
        self.num_bytes = 0  # what came in so far

    @property
    def whole(self) -> bool:
        """Whether all of it is there and checked."""
        return self._next == len(self._buckets)

    def take(self, chunk: Chunk) -> None:
        """Take the next bytes. Raises WeightsDamaged when they are not what was announced."""
        data = chunk.data
        if chunk.offset_bytes != self.num_bytes or self.num_bytes + len(data) > len(self._out):
            raise WeightsDamaged(
                f"byte {chunk.offset_bytes} of {self._manifest.version} came ({len(data)} bytes), "
                f"byte {self.num_bytes} of {len(self._out)} was next"
            )
        at = self.num_bytes
        self._out[at : at + len(data)] = data
        self.num_bytes = at + len(data)
        while not self.whole:
            bucket = self._buckets[self._next]
            end = bucket.offset_bytes + bucket.num_bytes
            self._sum.update(self._out[at : min(end, self.num_bytes)].data)
            at = min(end, self.num_bytes)
            if at < end:
                return
            self._end_bucket(bucket)

    def finish(self) -> None:
        """Say that no more comes. Raises WeightsDamaged unless it is whole."""
        if not self.whole and not self._manifest.num_bytes:
            self._end_bucket(self._buckets[0])
        if not self.whole:
            raise WeightsDamaged(
                f"{self._manifest.version} ended after {self.num_bytes} of {len(self._out)} bytes"
            )

    def _end_bucket(self, bucket: Bucket) -> None:
        if self._sum.hexdigest() != bucket.digest:
            raise WeightsDamaged(
                f"{self._manifest.version} came damaged (digest differs in bucket {self._next} of "
                f"{len(self._buckets)}); it is not used"
            )
        self._next += 1
        self._sum = xxhash.xxh3_128()
