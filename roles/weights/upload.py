"""What a publisher on another host sends instead of writing into the slot: runs of bytes.

Both ends are here, without IO: `packed` cuts the slices of a writer into records of less than a
megabyte, `unpack` puts one into the slot's bytes.

Knows slices; knows nothing of sockets. Called by the trainer's publisher and the parameter server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from realnet.errors import RealnetError
from realnet.roles.messages import Location, Manifest, WriteRuns
from realnet.roles.weights.layout import Array
from realnet.roles.weights.slices import runs
from realnet.roles.weights.stream import CHUNK_BYTES


def packed(mine: Manifest, location: Location, arrays: Iterable[Array]) -> Iterator[WriteRuns]:
    """Cut slices, in the manifest's order, into records. Their data is copied."""
    at: list[int] = []
    sizes: list[int] = []
    data: list[npt.NDArray[np.uint8]] = []
    room = CHUNK_BYTES

    def record() -> WriteRuns:
        return WriteRuns(
            mine.version,
            location,
            np.array(at, np.int64),
            np.array(sizes, np.int64),
            np.concatenate(data),
        )

    for tensor, array in zip(mine.tensors, arrays, strict=True):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        used = 0
        for offset, length in runs(tensor):
            end = offset + length
            while offset < end:
                size = min(room, end - offset)
                at.append(offset)
                sizes.append(size)
                data.append(flat[used : used + size])
                offset, used, room = offset + size, used + size, room - size
                if not room:
                    yield record()
                    at, sizes, data, room = [], [], [], CHUNK_BYTES
    if data:
        yield record()


def unpack(request: WriteRuns, view: memoryview) -> None:
    """Put the runs into a slot's bytes. Raises RealnetError for runs that are not inside of it."""
    out = np.frombuffer(view, dtype=np.uint8)
    offsets, lengths = request.offsets_bytes, request.lengths_bytes
    good = (
        offsets.ndim == lengths.ndim == request.data.ndim == 1
        and len(offsets) == len(lengths)
        and bool((offsets >= 0).all() and (lengths >= 0).all())
        and bool((lengths <= len(out)).all() and (offsets <= len(out) - lengths).all())
        and int(lengths.sum()) == len(request.data)
    )
    if not good:
        raise RealnetError(
            f"what came for {request.version} does not lie inside its slot: another realnet made it"
        )
    used = 0
    for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        out[offset : offset + length] = request.data[used : used + length]
        used += length
