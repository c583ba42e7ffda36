"""Length-prefixed MessagePack between the pool and its workers.

Both ends import this; it stays light, because every fresh worker process pays for it. Knows nothing
of what the frames say.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")
MAX_FRAME = 64 << 20


class BadFrame(ValueError):
    """The bytes are no frame: user code wrote where it should not, or the process is broken."""


def encode(value: Any) -> bytes:
    """Return one frame."""
    body = msgspec.msgpack.encode(value)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into values. Feeding is separate from taking: nothing here waits."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrive."""
        self._buffer += data

    def take(self) -> tuple[bool, Any]:
        """Return (True, the next value), or (False, None) until more bytes come.

        Raises BadFrame.
        """
        if len(self._buffer) < _LENGTH.size:
            return False, None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME:
            raise BadFrame(f"a frame of {length} bytes")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return False, None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            return True, msgspec.msgpack.decode(body)
        except msgspec.MsgspecError as error:
            raise BadFrame(str(error)) from None
