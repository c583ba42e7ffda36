"""Room for the bytes of one version, which an engine's own processes can map by its path.

The intake brings a version in here, wherever it comes from, and checks its digest; an engine reads
it from here. It vanishes with the generator. Or the room has no bytes of its own, but a loan: the
version is on a GPU that the engine works on, and stays there until the loan is ended.

Knows nothing of links or engines. Called by the generator; engines read it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from realnet.roles.messages import Manifest
from realnet.roles.weights.layout import tensors

if TYPE_CHECKING:
    from realnet.roles.weights.lending import Loan


class Room:
    """Memory of one size at a time."""

    def __init__(self) -> None:
        self.path = ""
        self._file = -1
        self._map: mmap.mmap | None = None
        self.loan: Loan | None = None

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

    def weights(self, manifest: Manifest) -> Mapping[str, Any]:
        """Return a version by names: numpy arrays (bf16 as uint16), or of a loan torch tensors."""
        if self.loan is not None:
            return self.loan.tensors(manifest)
        return tensors(manifest, self.view())

    def end_loan(self) -> None:
        """Give back what was lent: everything was copied. Waits for this process's GPU."""
        loan, self.loan = self.loan, None
        if loan is not None:
            loan.end()

    def view(self) -> memoryview:
        """Return the memory as it is; empty before the first `make`."""
        return memoryview(b"" if self._map is None else self._map)

    def close(self) -> None:
        """Give the memory back, as soon as nobody maps it any more."""
        self.end_loan()
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
