"""How a record lies in a segment file, and how damage is told from a write that was cut short.

    segment = magic, record, record, ...
    record  = length u32, check of the length u32, xxh3_64 of the body u64, body
    body    = MessagePack [kind, bytes]

A process that is killed while it writes leaves a record without its end (after a loss of power also
zeros): the torn tail, which nobody was told to be durable. Anything else that does not verify is
damage and is never skipped in silence. The length has a check of its own, since a wrong length
would make everything after it look torn.

Knows nothing of appending. Called by `journal.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgpack  # type: ignore[import-untyped,unused-ignore]
import xxhash

from realnet.errors import CheckpointError

MAGIC = b"realnet journal 1\n"
HEADER = struct.Struct("<IIQ")
MAX_RECORD = 2**30
_ZEROS = 512  # so many zeros at the end of a bad record: a page that never reached the disk


class JournalDamaged(CheckpointError):
    """A journal holds bytes that nobody wrote."""


class Frame(NamedTuple):
    """One record as read: where it ends, and what it says."""

    end: int
    kind: str
    body: bytes


class Torn(NamedTuple):
    """The end of a segment that was being written: what is whole ends at `offset`."""

    offset: int
    lost_bytes: int


def pack(kind: str, body: bytes) -> bytes:
    """Return the bytes of one record."""
    packed: bytes = msgpack.packb([kind, body])
    if len(packed) > MAX_RECORD:
        raise CheckpointError(f"a {kind} record of {len(packed)} bytes is over {MAX_RECORD}")
    return HEADER.pack(len(packed), _check(len(packed)), xxhash.xxh3_64_intdigest(packed)) + packed


def read(path: Path, *, last: bool) -> Iterator[Frame | Torn]:
    """Yield the records of a segment; in the last segment a torn tail is yielded as `Torn`.

    Raises JournalDamaged naming file and offset.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            if last and (MAGIC.startswith(magic) or not any(magic)):
                yield Torn(0, size)
                return
            raise _damaged(path, 0, "it does not begin as a journal does")
        offset = len(MAGIC)
        while offset < size:
            frame = _read_one(file, path, offset, size)
            if isinstance(frame, Torn) and not last:
                raise _damaged(path, offset, "it ends inside a record, and segments follow it")
            yield frame
            if isinstance(frame, Torn):
                return
            offset = frame.end


def _read_one(file: BinaryIO, path: Path, offset: int, size: int) -> Frame | Torn:
    torn = Torn(offset, size - offset)
    head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        return torn
    length, check, digest = HEADER.unpack(head)
    if check != _check(length) or length > MAX_RECORD:
        if not any(head) and not any(file.read()):
            return torn
        raise _damaged(path, offset, "the length of the record there is damaged")
    end = offset + HEADER.size + length
    if end > size:
        return torn
    packed = file.read(length)
    if xxhash.xxh3_64_intdigest(packed) != digest:
        if end == size and length >= _ZEROS and not any(packed[-_ZEROS:]):
            return torn
        raise _damaged(path, offset, "the digest of the record there differs")
    kind, body = msgpack.unpackb(packed, max_bin_len=MAX_RECORD)
    return Frame(end, kind, body)


def _check(length: int) -> int:
    return xxhash.xxh32_intdigest(struct.pack("<I", length), seed=0x6A)


def _damaged(path: Path, offset: int, what: str) -> JournalDamaged:
    return JournalDamaged(
        f"{path} is damaged at offset {offset}: {what}. The disk or a person changed it. To go on "
        "from the last checkpoint alone, move the journal folder away: tickets issued since then "
        "are issued again, their rollouts are lost"
    )
