"""Room for the bytes of one version, which an engine's own processes can map by its path.

The generator copies a version in here, wherever it comes from, and checks its digest; an engine
reads it from here. It vanishes with the generator.

Knows nothing of manifests, links or engines. Called by the generator; engines read it.
"""

from __future__ import annotations

import mmap
import os
import tempfile


class Room:
    """Memory of one size at a time."""

    def __init__(self) -> None:
        self.path = ""
        self._file = -1
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return 0 if self._map is None else len(self._map)

    def make(self, num_bytes: int) -> memoryview:
        """Return the memory, for as many bytes as asked. What was in it is lost if that changes."""
        if self._map is None or len(self._map) != num_bytes:
            self.close()
            self._file = _nameless()
            os.ftruncate(self._file, num_bytes)
            self._map = mmap.mmap(self._file, num_bytes)
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        return self.view()

    def view(self) -> memoryview:
        """Return the memory as it is; empty before the first `make`."""
        return memoryview(b"" if self._map is None else self._map)

    def close(self) -> None:
        """Give the memory back, as soon as nobody maps it any more."""
        self._map = None  # closed with its last view
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _nameless() -> int:
    """Return a file of memory without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("realnet-version", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # another system: engines are in this process there
        return os.dup(file.fileno())
