"""Signatures of what goes in bulk over tcp: whoever reads along cannot add, change or repeat any.

CURVE encrypts at about half a GB a second, which is too slow for large arrays. So the lane for
these is open, and each message on it carries a code (MAC) over all its frames. The keys come by the
control lane, which is encrypted and knows who speaks: whoever receives makes one at random for
every incarnation that may send to it, and says so. Nothing is sent in bulk before that has come.

A code covers the number of frames, their lengths and a count that grows with every message, also
with one that is sent again; the receiver takes each count once. What a message says of itself (run,
attempt, sender, receiver, number) is in its first frame. GMAC if both ends have `cryptography`
(7 GB/s on a core), else HMAC-SHA256 (1.5 GB/s). GMAC breaks if one key and count ever sign two
messages: a key has one sender, which lives once, and its count never goes back.

The same key opens the door: a password that is made from it keeps out whoever just finds the port.
It can be read on the way, so it proves nothing more.

No IO. Used by `zmq.py` and `signed.py`; `links.py` hands the keys over.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from realnet.codec import Frame
from realnet.errors import WireError

HMAC_SHA256, GMAC = 1, 2  # bits: an offer names all that the receiver can check
WINDOW = 1024  # as many messages may be overtaken, when a new connection passes an old one
_OFFER = struct.Struct(">B16s32s")
_HEAD = struct.Struct(">BQ")
_TAG_BYTES = {HMAC_SHA256: 32, GMAC: 16}

Code = Callable[[bytes, int, Iterable[Frame]], bytes]


def _hmac(key: bytes, count: int, parts: Iterable[Frame]) -> bytes:
    code = hmac.new(key, digestmod="sha256")
    for part in parts:
        code.update(part)
    return code.digest()


@cache
def codes() -> dict[int, Code]:
    """Return what this process can sign with, by its bit."""
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError:  # it is faster, and nothing else
        return {HMAC_SHA256: _hmac}

    def gmac(key: bytes, count: int, parts: Iterable[Frame]) -> bytes:
        nonce = count.to_bytes(12, "big")
        encryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
        for part in parts:
            encryptor.authenticate_additional_data(part)
        encryptor.finalize()
        tag: bytes = encryptor.tag
        return tag

    return {HMAC_SHA256: _hmac, GMAC: gmac}


class _Key:
    """One direction from one incarnation to another."""

    __slots__ = ("by_kind", "count", "name", "offer", "password", "seen")

    def __init__(self, offer: bytes):
        kinds, self.name, secret = _OFFER.unpack(offer)
        self.offer = offer
        self.password = _derive(secret, "door").hex().encode()
        self.by_kind = {
            kind: (_derive(secret, f"code {kind}"), code)
            for kind, code in codes().items()
            if kind & kinds
        }
        self.count = 0  # the highest that was used (here, or by the peer)
        self.seen = 0  # bit n: the count that is n less has been used

    def code(self, kind: int, count: int, frames: Sequence[Frame]) -> bytes:
        key, code = self.by_kind[kind]
        sizes = struct.pack(f">{len(frames) + 1}Q", len(frames), *map(len, frames))
        return code(key, count, (_HEAD.pack(kind, count), sizes, *frames))

    def is_new(self, count: int) -> bool:
        ahead = count - self.count
        return ahead > 0 or (-ahead < WINDOW and not self.seen >> -ahead & 1)

    def use(self, count: int) -> None:
        ahead = count - self.count
        if ahead > 0:
            self.seen = (self.seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.count = count
        else:
            self.seen |= 1 << -ahead


class Seals:
    """The keys of one process: those that it gave out, and those that it was given."""

    def __init__(self) -> None:
        self._given: dict[str, _Key] = {}
        self._got: dict[str, _Key] = {}
        self._names: dict[bytes, str] = {}

    def issue(self, peer: str) -> bytes:
        """Return what a peer must be told, in secret, before it can send to us in bulk."""
        key = self._given.get(peer)
        if key is None:
            key = _Key(_OFFER.pack(sum(codes()), os.urandom(16), os.urandom(32)))
            self._given[peer] = key
            self._names[key.name.hex().encode()] = peer
        return key.offer

    def accept(self, peer: str, offer: bytes) -> bool:
        """A peer has told us its key; whether that is news. Raises WireError for a damaged one."""
        if peer in self._got:  # to begin again with an old count would give the key away
            return False
        key = _Key(offer) if len(offer) == _OFFER.size else None
        if key is None or not key.by_kind:
            raise WireError(
                f"{peer} sent a key for bulk that cannot be used here: is it the same realnet "
                "everywhere?"
            )
        self._got[peer] = key
        return True

    def ready(self, peer: str) -> bool:
        """Tell whether a peer has told us its key."""
        return peer in self._got

    def forget(self, peer: str) -> None:
        """The peer is dead."""
        self._got.pop(peer, None)
        key = self._given.pop(peer, None)
        if key is not None:
            self._names.pop(key.name.hex().encode(), None)

    def credentials(self, peer: str) -> tuple[bytes, bytes]:
        """Return the name and the password for the door of a peer."""
        key = self._got[peer]
        return key.name.hex().encode(), key.password

    def admit(self, name: bytes, password: bytes) -> str | None:
        """Return who is at the door; None for a stranger. May be called on any thread."""
        peer = self._names.get(name)
        key = self._given.get(peer) if peer is not None else None
        return peer if key is not None and hmac.compare_digest(key.password, password) else None

    def sign(self, peer: str, frames: Sequence[Frame]) -> bytes:
        """Return the last frame of a message to a peer."""
        key = self._got[peer]
        key.count += 1
        kind = max(key.by_kind)
        return _HEAD.pack(kind, key.count) + key.code(kind, key.count, frames)

    def check(self, peer: str, frames: list[Frame]) -> bool:
        """Take the last frame off a message of a peer; tell whether the peer is known.

        Raises WireError unless the peer has sent exactly this, and it has not been here before.
        """
        key = self._given.get(peer)
        if key is None:
            return False
        last = bytes(frames.pop())
        kind, count = _HEAD.unpack_from(last) if len(last) >= _HEAD.size else (0, 0)
        tag = last[_HEAD.size :]
        if kind not in key.by_kind or len(tag) != _TAG_BYTES[kind]:
            raise WireError(f"refused a bulk message as from {peer}: it is not signed")
        if not key.is_new(count):
            raise WireError(f"refused a bulk message from {peer}: it was here before")
        if not hmac.compare_digest(tag, key.code(kind, count, frames)):
            raise WireError(
                f"refused a bulk message as from {peer}: its signature is wrong; it was changed on "
                "the way, or somebody else sent it"
            )
        key.use(count)
        return True


def _derive(secret: bytes, what: str) -> bytes:
    return hmac.digest(secret, f"realnet bulk {what}".encode(), "sha256")
