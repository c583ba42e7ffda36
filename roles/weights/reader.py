"""A reader of arenas on its own host: copies versions out, or maps them under a lease.

Opens an arena once. Knows nothing of other links or of who announced what. Used in a compute
thread by `receiver.py`, by the parameter server's streams, and by an engine's own processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from realnet.errors import RealnetError
from realnet.roles.messages import Held, Location, Manifest
from realnet.roles.weights.arena import ArenaSlots
from realnet.roles.weights.digests import WeightsGone


class WeightReader:
    """One reader of one host's arena."""

    def __init__(self) -> None:
        self._arena: ArenaSlots | None = None

    def copy(self, held: Held, out: bytearray | memoryview | npt.NDArray[np.uint8]) -> None:
        """Copy a version into `out` [num_bytes]. Raises WeightsGone or WeightsDamaged."""
        where, manifest = held.location, held.manifest
        arena = self._open(where, manifest)
        arena.lease(where.slot)
        try:
            arena.read_copy(where.slot, where.generation, manifest, out)
        finally:
            arena.release(where.slot)

    @contextmanager
    def mapped(self, held: Held) -> Iterator[memoryview]:
        """Lend the bytes of a version [num_bytes] where they lie, read-only, under a lease.

        They were checked when they were committed to this host. Raises WeightsGone when the slot
        holds another version, and at the end when that came meanwhile: only a slot whose readers
        lag behind all others is written again, and what was made of its bytes is then rubbish.
        """
        where, manifest = held.location, held.manifest
        arena = self._open(where, manifest)
        arena.lease(where.slot)
        try:
            arena.still(where.slot, where.generation, manifest)
            view = arena.view(where.slot)[: manifest.num_bytes].toreadonly()
            yield view
            arena.still(where.slot, where.generation, manifest)
        finally:
            arena.release(where.slot)

    def close(self) -> None:
        """Unmap."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _open(self, where: Location, manifest: Manifest) -> ArenaSlots:
        size = where.slot_bytes or ArenaSlots.slot_bytes(manifest.num_bytes)
        arena = self._arena
        if arena is None or (arena.path, arena.size) != (where.path, size):
            self.close()
            try:
                length = os.stat(where.path).st_size
                arena = ArenaSlots(where.path, length // size, size, writable=False)
            except (OSError, RealnetError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise WeightsGone(
                    f"{where.path} cannot be opened ({why}): the arena went away; wait for the "
                    "next version"
                ) from error
            self._arena = arena
        return arena
