"""Keys of guests: who from outside may come into a run, until it ends or the grant is taken back.

The public keys are in one file of the run's keys folder, replaced in one move. Doorkeepers look at
it when somebody knocks, so a grant holds from the moment that it is written, and a revoked key
opens nothing any more; whoever is inside with it is put out by the head. Secrets are not kept: each
is handed out once, to whoever it was made for.

Knows nothing of records. Used by `security.py`, `guest/` and the command line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from zmq.utils import z85

from realnet.errors import SecurityError

GUESTS = "guests.json"


class Granted:
    """The keys of guests as the file has them now."""

    def __init__(self, path: Path):
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._slots: dict[bytes, str] = {}

    def slot_of(self, key: bytes) -> str | None:
        """Return the slot that a raw public key was granted to."""
        self._look()
        return self._slots.get(key)

    def slots(self) -> set[str]:
        """Return the slots that hold a grant."""
        self._look()
        return set(self._slots.values())

    def _look(self) -> None:
        try:
            status = os.stat(self._path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                written = _read(self._path)
                self._slots = {z85.decode(key): slot for slot, key in written.items()}
                self._stamp = stamp
        except (OSError, ValueError, AttributeError):  # gone, or not ours: nobody is granted
            self._stamp, self._slots = None, {}


def grant_key(keys: Path, slot: str, *, replace: bool = True) -> bytes:
    """Make a key for a slot, let it in from now on, and return its secret.

    An earlier key of the slot is taken back, or (without `replace`) refused: SecurityError. Raises
    FileNotFoundError when the run has no keys.
    """
    public, secret = zmq.curve_keypair()
    with _changing(keys) as slots:
        if slot in slots and not replace:
            raise SecurityError(
                f"{slot.partition('/')[0]} has a key of this run already: enter with that, under "
                "another name, or take it back (realnet grant --revoke)"
            )
        slots[slot] = public.decode()
    return secret


def revoke_key(keys: Path, slot: str) -> bool:
    """Take a slot's key back. Tells whether there was one."""
    with _changing(keys) as slots:
        return slots.pop(slot, None) is not None


@contextmanager
def _changing(keys: Path) -> Iterator[dict[str, str]]:
    """Change the file; one at a time, and readers see it whole or not at all."""
    path, part = keys / GUESTS, keys / f".{GUESTS}.tmp"
    lock = os.open(keys, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        slots = _read(path) if path.exists() else {}
        yield slots
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(slots).encode())
        finally:
            os.close(fd)
        os.replace(part, path)
    finally:
        os.close(lock)


def _read(path: Path) -> dict[str, str]:
    return {str(slot): str(key) for slot, key in json.loads(path.read_bytes()).items()}
