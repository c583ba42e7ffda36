"""Keys of a run, and the doorkeeper that lets in nobody else (CURVE and ZAP).

The head makes a pair of keys for each slot and attempt, in a folder that only its user can enter.
A process gets its own secret through an inherited descriptor, never in its arguments, and reads the
public keys of all. CURVE alone lets everybody in who knows a server's public key; the doorkeeper
lets in exactly the keys of this attempt and names the slot that a key belongs to, which the node
compares with what each batch says of itself.

Knows nothing of records. Used by `zmq.py`; `run.py`, `launch/local.py`, `member.py` hand keys on.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from realnet.errors import SecurityError
from realnet.transport.grants import GUESTS, Granted

_ZAP = "inproc://zeromq.zap.01"
_PUBLIC = "public.json"


class Keys(NamedTuple):
    """What one process holds: its own secret, and everybody's public key by slot.

    `guests` is the file with the keys of guests, where there may be any.
    """

    slot: str
    secret: bytes
    public: dict[str, bytes]
    guests: Path | None = None


def make_keys(folder: Path, slots: Iterable[str]) -> None:
    """Make a pair of keys for every slot, afresh. Raises SecurityError."""
    _need_curve()
    if folder.exists():
        _private(folder)
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    public = {}
    for slot in slots:
        public_key, secret_key = zmq.curve_keypair()
        public[slot] = public_key.decode()
        _write(_secret_path(folder, slot), secret_key)
    _write(folder / _PUBLIC, json.dumps(public).encode())
    _private(folder)  # a file system may not know modes


def open_secret(folder: Path, slot: str) -> int:
    """Return a descriptor of a slot's secret, to be inherited by its process alone."""
    return os.open(_secret_path(folder, slot), os.O_RDONLY | os.O_CLOEXEC)


def read_keys(folder: Path, slot: str, descriptor: int | None = None) -> Keys:
    """Read a slot's secret (from a descriptor, which is closed) and the public keys."""
    _need_curve()
    _private(folder)
    fd = open_secret(folder, slot) if descriptor is None else descriptor
    try:
        _private(fd, _secret_path(folder, slot))
        secret = os.read(fd, 40)
    finally:
        os.close(fd)
    _private(folder / _PUBLIC)
    public = json.loads((folder / _PUBLIC).read_bytes())
    if len(secret) != 40 or zmq.curve_public(secret).decode() != public.get(slot):
        raise SecurityError(
            f"the keys in {folder} do not belong together ({slot}): start the run again, it makes "
            "new ones"
        )
    return Keys(slot, secret, {s: k.encode() for s, k in public.items()}, folder / GUESTS)


def guest_keys(slot: str, secret: bytes, known: dict[str, bytes]) -> Keys:
    """Return the keys of a guest, who knows only some others yet. Raises SecurityError."""
    _need_curve()
    try:
        return Keys(slot, secret, {**known, slot: zmq.curve_public(secret)})
    except (ValueError, zmq.ZMQError):
        raise SecurityError(f"the secret of {slot} is damaged: ask for a new key") from None


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
    _private(path)


def _secret_path(folder: Path, slot: str) -> Path:
    return folder / f"{slot.replace('/', '-')}.secret"


def _private(what: Path | int, name: Path | None = None) -> None:
    """Raise SecurityError unless a file or folder is ours, and closed to everybody else."""
    status = os.stat(what)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SecurityError(
            f"{name or what} is open to others (mode {mode:04o}): delete the keys folder, and use "
            "a file system that knows modes; realnet makes new keys for every attempt"
        )
    if status.st_uid != os.geteuid():
        raise SecurityError(f"{name or what} belongs to another user (uid {status.st_uid})")


def _need_curve() -> None:
    if not zmq.has("curve"):
        raise SecurityError(
            "this build of libzmq has no CURVE: install pyzmq's own wheel (pip install pyzmq)"
        )


class Doorkeeper:
    """Answers, on a thread of its own, whether a key may come in (ZAP, ZeroMQ RFC 27).

    `admit` says who comes to the signed lane with a name and a password, if there is one.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Keys,
        admit: Callable[[bytes, bytes], str | None] | None = None,
    ):
        self._admit = admit
        self._slots = {z85.decode(k): slot for slot, k in keys.public.items()}
        self._guests = Granted(keys.guests) if keys.guests is not None else None
        self.refused: Callable[[str], None] | None = None
        socket = context.socket(zmq.REP)
        socket.set(zmq.LINGER, 0)
        socket.bind(_ZAP)  # before anything else is bound: without it CURVE lets everybody in
        self._thread = threading.Thread(target=self._serve, args=(socket,), name="zap", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread; terminating the context ends it."""
        self._thread.join(5)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        try:
            while True:
                request = socket.recv_multipart()
                socket.send_multipart(self._answer(request))
        except zmq.ZMQError:  # the context is being terminated
            socket.close()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        if len(request) < 6:
            return [b"1.0", b"", b"500", b"a damaged request", b"", b""]
        version, number, _, address, _, mechanism, *credentials = request
        slot = None
        if version == b"1.0" and mechanism == b"CURVE" and len(credentials) == 1:
            slot = self._slots.get(credentials[0])
            if slot is None and self._guests is not None:
                slot = self._guests.slot_of(credentials[0])
        elif version == b"1.0" and mechanism == b"PLAIN" and len(credentials) == 2:
            slot = self._admit(*credentials) if self._admit is not None else None
        if slot is not None:
            return [b"1.0", number, b"200", b"OK", slot.encode(), b""]
        if self.refused is not None:
            why = "its key is none of this run's"
            if mechanism == b"PLAIN":
                why = "it was given no key for bulk"
            self.refused(f"refused a connection from {address.decode(errors='replace')}: {why}")
        return [b"1.0", number, b"400", b"not a key of this run", b"", b""]
