"""Slots of shared memory that hold whole versions, and how a half one is never taken for whole.

    arena = slot, slot, ...         slot = header [HEADER_BYTES], payload [num_bytes], padding
    header = magic u64, generation u64, length of the manifest u64, its xxh3_64 u64, the manifest

A generation is odd while a slot is written and even when it is whole; it only grows. A reader takes
the generation it was told, copies, looks again, and checks the digest: a slot that was written
meanwhile is `WeightsGone`, a changed byte is `WeightsDamaged`. Or it maps a slot under a lease: a
lock on the slot's first byte that the system drops with its holder. Who opens a slot takes one
without a lease, if there is one, so that a reader that lags or died holds nobody up. The memory
outlives its writers: a new parameter server scans it and finds what is whole.

Knows nothing of who owns the memory. Called by parameter servers, trainers and generators, in their
compute threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import weakref
from types import TracebackType

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from realnet.errors import RealnetError, ensure
from realnet.roles.messages import Held, Location, Manifest
from realnet.roles.weights.digests import WeightsDamaged, WeightsGone, check

HEADER_BYTES = 2**20  # a manifest takes about 100 bytes a tensor
_MAGIC = 0x3177_7465_6E6C_6561
_HEAD = struct.Struct("<QQQQ")
_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
_LEASES = hasattr(fcntl, "F_OFD_SETLK") and struct.calcsize("P") == 8
_PAGE = max(mmap.PAGESIZE, 4096)


class ArenaSlots:
    """The slots of one arena."""

    @staticmethod
    def slot_bytes(payload_bytes: int) -> int:
        """Return how large a slot must be for so many bytes of weights: a multiple of a page."""
        return -(-(HEADER_BYTES + payload_bytes) // _PAGE) * _PAGE

    def __init__(
        self,
        path: str,
        slots: int,
        slot_bytes: int,
        *,
        writable: bool = True,
        populate: bool = False,
    ) -> None:
        """Open an arena. `populate` has all its pages in the page table at once: to touch them for
        the first time, one by one, takes longer than to copy a version."""
        self.path = path
        self.slots = slots
        self.size = slot_bytes
        file = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            length = os.fstat(file).st_size
            if slots < 1 or slot_bytes <= HEADER_BYTES or length < slots * slot_bytes:
                raise RealnetError(
                    f"{path} has {length} bytes, too few for {slots} slots of {slot_bytes}: is it "
                    "the arena of another run?"
                )
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if populate else 0)
            self._map = mmap.mmap(file, slots * slot_bytes, flags, protection)
        except BaseException:
            os.close(file)
            raise
        self._file = file  # its description holds the leases
        self._closed = weakref.finalize(self, os.close, file)  # also of one that nobody closes

    # ------------------------------------------------------------ writing

    def begin(self, slot: int) -> int:
        """Mark a slot as being written; return its odd generation."""
        now = self.generation(slot)
        writing = now + 1 if now % 2 == 0 else now + 2  # +2: a writer died here
        self._put_head(slot, writing, 0, 0)
        return writing

    def view(self, slot: int) -> memoryview:
        """Return the payload of a slot. Release it soon."""
        start = self._start(slot)
        return memoryview(self._map)[start + HEADER_BYTES : start + self.size]

    def commit(self, slot: int, manifest: Manifest, *, verified: bool = False) -> int:
        """Say that a slot holds this version; return its even generation.

        Raises WeightsDamaged when the bytes do not have the manifest's digest (unless they were
        looked at before: `verified`); the slot then stays unfinished.
        """
        writing = self.generation(slot)
        ensure(writing % 2 == 1, f"slot {slot} of {self.path} was committed but not begun")
        if not verified:
            try:
                self.verify(slot, manifest)
            except WeightsDamaged as error:
                raise WeightsDamaged(f"{error}: publish it again") from None
        encoded = msgspec.msgpack.encode(manifest)
        if len(encoded) > HEADER_BYTES - _HEAD.size:
            raise RealnetError(
                f"the manifest of {manifest.version} takes {len(encoded)} bytes; a slot's header "
                f"has {HEADER_BYTES - _HEAD.size}: too many tensors"
            )
        start = self._start(slot) + _HEAD.size
        self._map[start : start + len(encoded)] = encoded
        sum_ = xxhash.xxh3_64_intdigest(encoded)
        self._put_head(slot, writing, len(encoded), sum_)
        self._put_head(slot, writing + 1, len(encoded), sum_)
        return writing + 1

    def verify(self, slot: int, manifest: Manifest) -> None:
        """Raise WeightsDamaged unless the payload has the manifest's digests."""
        with self.view(slot) as payload:
            check(manifest, payload, f"in slot {slot} of {self.path}")

    # ------------------------------------------------------------ reading

    def generation(self, slot: int) -> int:
        """Return the generation of a slot: 0 never written, odd being written, even whole."""
        magic, generation, _, _ = self._head(slot)
        return generation if magic == _MAGIC else 0

    def read_copy(
        self,
        slot: int,
        generation: int,
        manifest: Manifest,
        out: bytearray | memoryview | npt.NDArray[np.uint8],
    ) -> None:
        """Copy a version into `out` [num_bytes].

        Raises WeightsGone when the slot holds or gets another one, WeightsDamaged when the digest
        differs; `out` then holds rubbish.
        """
        self.still(slot, generation, manifest)
        with self.view(slot) as payload, payload[: manifest.num_bytes] as used:
            target = np.frombuffer(out, dtype=np.uint8)[: manifest.num_bytes]
            ensure(
                len(target) == len(used), f"{manifest.version} does not fit in the reader's room"
            )
            source = np.frombuffer(used, dtype=np.uint8)
            np.copyto(target, source)
            del source
        self.still(slot, generation, manifest)
        check(manifest, target, f"in slot {slot} of {self.path}")

    def still(self, slot: int, generation: int, manifest: Manifest) -> None:
        """Raise WeightsGone unless a slot holds what was announced."""
        now = self.generation(slot)
        if generation % 2 or now != generation:
            raise WeightsGone(
                f"slot {slot} of {self.path} no longer holds {manifest.version} (generation {now}, "
                f"announced {generation}): take the newest version instead"
            )

    # ------------------------------------------------------------ leases

    def lease(self, slot: int) -> None:
        """Say that a slot is being read. Ends with `release`, `close` or this process."""
        self._lock(slot, fcntl.F_RDLCK)

    def release(self, slot: int) -> None:
        """Say that it is not any more."""
        self._lock(slot, fcntl.F_UNLCK)

    def leased(self, slot: int) -> bool:
        """Tell whether anybody else has a lease on a slot."""
        if not _LEASES:
            return False
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._start(slot), 1, 0)
        found = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked)
        return bool(_LOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _lock(self, slot: int, kind: int) -> None:
        if _LEASES:
            asked = _LOCK.pack(kind, os.SEEK_SET, self._start(slot), 1, 0)
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, asked)

    # ------------------------------------------------------------ what is there

    def manifest(self, slot: int) -> Manifest | None:
        """Return the manifest in a slot's header; None when the slot is not whole or damaged."""
        magic, generation, length, sum_ = self._head(slot)
        if magic != _MAGIC or generation % 2 or generation == 0:
            return None
        start = self._start(slot) + _HEAD.size
        encoded = self._map[start : start + min(length, HEADER_BYTES - _HEAD.size)]
        if len(encoded) != length or xxhash.xxh3_64_intdigest(encoded) != sum_:
            return None
        try:
            return msgspec.msgpack.decode(encoded, type=Manifest)
        except msgspec.DecodeError:
            return None

    def scan(self) -> list[Held]:
        """Return the whole versions, digests verified, newest last."""
        found: list[Held] = []
        for slot in range(self.slots):
            manifest = self.manifest(slot)
            if manifest is None:
                continue
            try:
                self.verify(slot, manifest)
            except WeightsDamaged:
                continue
            found.append(Held(manifest, self.location(slot)))
        return sorted(found, key=lambda h: (h.manifest.version.branch, h.manifest.version.number))

    def location(self, slot: int) -> Location:
        """Return the address of a slot as it is now."""
        return Location(self.path, slot, self.generation(slot), self.size)

    # ------------------------------------------------------------ memory

    def close(self) -> None:
        """Unmap, now or, when somebody still holds a view, with that view."""
        with contextlib.suppress(BufferError):
            self._map.close()
        if self._file >= 0:
            self._closed()
            self._file = -1

    def __enter__(self) -> ArenaSlots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise RealnetError(f"{self.path} has {self.slots} slots, none numbered {slot}")
        return slot * self.size

    def _head(self, slot: int) -> tuple[int, int, int, int]:
        return _HEAD.unpack_from(self._map, self._start(slot))

    def _put_head(self, slot: int, generation: int, length: int, sum_: int) -> None:
        _HEAD.pack_into(self._map, self._start(slot), _MAGIC, generation, length, sum_)
