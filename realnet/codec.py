"""Records to bytes and back: a MessagePack header, and raw frames for large arrays.

Arrays below 64 KiB travel inside the header, since an extra frame costs more than the copy;
larger ones are frames that nobody copies. Limits are checked before anything is decoded. Only
kinds that were registered are decoded; nothing is imported, evaluated or unpickled.

Knows nothing of sockets or actors. Called by `node.py` for every packet, and by journals.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from realnet import wire
from realnet.errors import TooLarge, UnknownKind, WireError, listed, nearest
from realnet.message import Message, kind_of

Frame = bytes | bytearray | memoryview
Array = npt.NDArray[Any]

INLINE_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 2**20
MAX_BATCH_BYTES = 2**30
MAX_FRAMES = 1024
_INLINE, _FRAME = 1, 2
_DTYPES: tuple[str, ...] = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
_CODE = {np.dtype(name): i for i, name in enumerate(_DTYPES)}


class Codec:
    """Encodes and decodes the records of the kinds it was given."""

    def __init__(self, kinds: Iterable[type[Message]] = (), inline_bytes: int = INLINE_BYTES):
        self._inline_bytes = inline_bytes
        self._kinds: dict[str, type[Message]] = {}
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self._frames: list[Frame] = []  # of the record being encoded or decoded
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._pack_array)
        self._batch_decoder = msgspec.msgpack.Decoder(wire.Batch)
        for kind in kinds:
            self.register(kind)

    def register(self, kind: type[Message]) -> None:
        """Make a record type known. Two types of one name are refused."""
        name = kind_of(kind)
        known = self._kinds.setdefault(name, kind)
        if known is not kind:
            raise WireError(
                f"two record types are called {name}: {known.__module__} and {kind.__module__}; "
                "rename one"
            )
        if name not in self._decoders:
            self._decoders[name] = msgspec.msgpack.Decoder(
                kind, ext_hook=self._unpack_array, dec_hook=_accept_array
            )

    def encode(self, record: Message) -> tuple[wire.Body, list[Frame]]:
        """Return the body of a record and the frames of its large arrays."""
        self._frames = []
        raw = self._encoder.encode(record)
        frames, self._frames = self._frames, []
        return wire.Body(kind_of(type(record)), msgspec.Raw(raw), len(frames)), frames

    def decode(self, body: wire.Body, frames: Sequence[Frame], sender: str = "") -> Message:
        """Return the record; raises WireError naming kind, field path and sender."""
        decoder = self._decoders.get(body.kind)
        if decoder is None:
            raise UnknownKind(
                f"a record of kind {body.kind!r} came from {sender or 'a peer'}, which nobody here "
                f"declared.{nearest(body.kind, self._kinds)} Known: {listed(self._kinds)}"
            )
        self._frames = list(frames)
        try:
            return decoder.decode(body.raw)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, ValueError, TypeError, IndexError, struct.error) as error:
            raise WireError(f"{body.kind} from {sender or 'a peer'} is damaged: {error}") from None
        finally:
            self._frames = []

    def encode_batch(self, batch: wire.Batch) -> bytes:
        """Return the header frame of a batch."""
        return msgspec.msgpack.encode(batch)

    def decode_batch(self, frames: Sequence[Frame]) -> wire.Batch:
        """Check the limits, then decode the header. Raises TooLarge or WireError."""
        if not frames:
            raise WireError("an empty message came in")
        total = sum(len(f) for f in frames)
        if len(frames) > MAX_FRAMES or total > MAX_BATCH_BYTES or len(frames[0]) > MAX_HEADER_BYTES:
            raise TooLarge(
                f"refused {total} bytes in {len(frames)} frames (limits: {MAX_BATCH_BYTES} bytes, "
                f"{MAX_FRAMES} frames, {MAX_HEADER_BYTES} bytes of header)"
            )
        try:
            batch = self._batch_decoder.decode(frames[0])
        except (msgspec.DecodeError, ValueError) as error:
            raise WireError(f"a damaged batch came in: {error}") from None
        if batch.protocol != wire.PROTOCOL:
            raise WireError(
                f"{batch.sender} speaks protocol {batch.protocol}, this run is {wire.PROTOCOL}: "
                "is it the same realnet everywhere?"
            )
        return batch

    def copy(self, record: Message) -> Message:
        """Send a record through bytes and back, as a wire would (forced codec in tests)."""
        body, frames = self.encode(record)
        return self.decode(body, frames)

    def _pack_array(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"a record holds a {type(value).__name__}: plain values and numpy arrays travel"
            )
        code = _CODE.get(value.dtype)
        if code is None:
            raise TypeError(f"arrays of dtype {value.dtype} do not travel; use one of {_DTYPES}")
        head = struct.pack(f"<BB{value.ndim}q", code, value.ndim, *value.shape)
        data = np.ascontiguousarray(value)
        if data.nbytes < self._inline_bytes:
            return msgspec.msgpack.Ext(_INLINE, head + data.tobytes())
        self._frames.append(memoryview(data.reshape(-1).view(np.uint8).data))
        return msgspec.msgpack.Ext(_FRAME, head + struct.pack("<I", len(self._frames) - 1))

    def _unpack_array(self, code: int, data: memoryview) -> Array:
        dtype_code, ndim = struct.unpack_from("<BB", data)
        if ndim > 8 or dtype_code >= len(_DTYPES):
            raise ValueError(f"an array of dtype code {dtype_code} and {ndim} dimensions")
        shape = struct.unpack_from(f"<{ndim}q", data, 2)
        payload: Frame = data[2 + 8 * ndim :]
        if code == _FRAME:
            payload = self._frames[struct.unpack("<I", payload)[0]]
        elif code != _INLINE:
            raise ValueError(f"extension type {code}")
        array: Array = np.frombuffer(payload, dtype=_DTYPES[dtype_code])
        return array.reshape(shape) if ndim != 1 or len(array) != shape[0] else array


def _accept_array(kind: type, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    raise ValueError(f"expected an array, got {type(value).__name__}")
