"""Records to bytes and back: a MessagePack header, and raw frames for large arrays.

Arrays below 64 KiB travel inside the header, since an extra frame costs more than the copy (below
16 KiB where frames go through shared memory); larger ones are frames that nobody copies. Limits are
checked before anything is decoded. Only kinds that were registered are decoded; nothing is
imported, evaluated or unpickled. Whatever is wrong with bytes or with a record comes out as a
WireError.

Knows nothing of sockets or actors. Called by `node.py` for every packet, and by journals;
`arrays.py`, `limits.py` and `schema.py` know what arrays, limits and names of fields are.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec

from realnet import arrays, wire
from realnet.arrays import Array as Array
from realnet.arrays import Frame as Frame
from realnet.errors import UnknownKind, WireError, listed, nearest
from realnet.limits import INLINE_BYTES as INLINE_BYTES
from realnet.limits import MAX_BATCH_BYTES as MAX_BATCH_BYTES
from realnet.limits import MAX_DEPTH, MAX_OBJECTS, check_objects, check_sizes, may_be_deep
from realnet.limits import MAX_FRAMES as MAX_FRAMES
from realnet.limits import MAX_HEADER_BYTES as MAX_HEADER_BYTES
from realnet.limits import NEAR_INLINE_BYTES as NEAR_INLINE_BYTES
from realnet.message import Message, kind_of
from realnet.schema import told

# What the decoder and our own checks of arrays raise for damaged bytes; nothing else is expected.
_DAMAGED = (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError)


def _no_array(value: Any) -> Any:
    raise TypeError(f"a record holds a {type(value).__name__} where its type allows none")


_NUMBERS = struct.Struct(">BQBQBI")  # two integers of 64 bits, and how long an array is
_ONE_OP = msgspec.msgpack.Decoder(tuple[int, wire.AnyOp])
_CALL, _REPLY = (kind.__struct_config__.tag for kind in (wire.Call, wire.Reply))
_PLAIN = msgspec.msgpack.Encoder(enc_hook=_no_array)


class Codec:
    """Encodes and decodes the records of the kinds it was given."""

    def __init__(self, kinds: Iterable[type[Message]] = (), inline_bytes: int = INLINE_BYTES):
        self._inline_bytes = inline_bytes
        self._kinds: dict[str, type[Message]] = {}
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self._quick: dict[str, msgspec.msgpack.Decoder[Any]] = {}  # of kinds that hold no array
        self._deep: set[str] = set()  # kinds whose type does not bound how deep they are
        self._frames: Sequence[Frame] = ()  # of the record being decoded
        self._out: list[Frame] = []  # of the record being encoded
        self._damage = ""  # what is wrong with an array of the record being decoded
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._pack_array)
        self._batch_decoder = msgspec.msgpack.Decoder(wire.Batch)
        self._put = _PLAIN.encode_into  # of its own: compiled, a global is looked up each time
        self._call, self._reply = _CALL, _REPLY
        self._plain: dict[type[Message], str] = {}  # kind -> its name, if it can hold no array
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
                kind, ext_hook=self._unpack_array, dec_hook=arrays.fit
            )
            if may_be_deep(kind):
                self._deep.add(name)
            elif _is_plain(kind):
                self._quick[name] = msgspec.msgpack.Decoder(kind)

    @property
    def kinds(self) -> Sequence[type[Message]]:
        """The record types that are known."""
        return tuple(self._kinds.values())

    def encode(self, record: Message) -> tuple[wire.Body, list[Frame]]:
        """Return the body of a record and the frames of its large arrays.

        The frames are the memory of the arrays: nobody may write into it until they are sent.
        Raises WireError naming kind and field path for what does not travel.
        """
        self._out = []
        try:
            raw = self._encoder.encode(record)
        except Exception as error:  # of any library whose value was put into a record
            raise WireError(self._why_not(record, error)) from error
        frames, self._out = self._out, []
        return wire.Body(kind_of(type(record)), msgspec.Raw(raw), len(frames)), frames

    def decode(self, body: wire.Body, frames: Sequence[Frame], sender: str = "") -> Message:
        """Return the record; raises WireError naming kind, field path and sender.

        Arrays in it are the memory of the message and are not to be written to.
        """
        quick = self._quick.get(body.kind)
        if quick is not None:
            try:
                return quick.decode(body.raw)  # type: ignore[no-any-return]
            except _DAMAGED as error:
                raise self._damaged(body.kind, sender, error) from None
        decoder = self._decoders.get(body.kind)
        if decoder is None:
            raise UnknownKind(
                f"a record of kind {body.kind!r} came from {sender or 'a peer'}, which nobody here "
                f"declared.{nearest(body.kind, self._kinds)} Known: {listed(self._kinds)}"
            )
        if body.kind in self._deep:
            what = f"{body.kind} from {sender or 'a peer'}"
            check_objects(bytes(body.raw), what, max_objects=2**62, max_depth=MAX_DEPTH)
        self._frames = frames
        try:
            record = decoder.decode(body.raw)
        except _DAMAGED as error:
            self._damage = ""
            raise self._damaged(body.kind, sender, error) from None
        finally:
            self._frames = ()
        if self._damage:  # in a field of any type
            text, self._damage = self._damage, ""
            raise WireError(f"{body.kind} from {sender or 'a peer'} is damaged: {text}")
        return record  # type: ignore[no-any-return]

    def _damaged(self, kind: str, sender: str, error: Exception) -> WireError:
        text = told(self._kinds[kind], str(error))
        return WireError(f"{kind} from {sender or 'a peer'} is damaged: {text}")

    def pack(self, record: Message) -> tuple[wire.Body, Sequence[Frame]]:
        """Return a body that is written when its operation is, if the record can hold no array."""
        plain = self.plain_kind(record)
        return (wire.Body(plain, cast(msgspec.Raw, record)), ()) if plain else self.encode(record)

    def put(self, buffer: bytearray, route: int, op: wire.AnyOp) -> None:
        """Write one operation at the end of a batch under way."""
        try:
            _PLAIN.encode_into((route, op), buffer, -1)
        except Exception as error:
            record = getattr(getattr(op, "body", None), "raw", None)
            raise self._not_plain(record, error) from error

    def put_call(
        self,
        buffer: bytearray,
        route: int,
        id: int,
        budget_s: float,
        trace: int,
        record: Message,
    ) -> bool:
        """Write a `wire.Call` whose span is its id as `put` would; False if it has arrays.

        To make the operation first would cost as much as to write it.
        """
        kind = self._plain.get(type(record)) or self.plain_kind(record)
        if not kind:
            return False
        op = (self._call, id, budget_s, (kind, record, 0), 0, trace, id)
        start = len(buffer)
        try:
            self._put((route, op), buffer, -1)
        except Exception as error:
            del buffer[start:]  # half an operation would damage the batch, and all that is in it
            raise self._not_plain(record, error) from error
        return True

    def put_reply(self, buffer: bytearray, route: int, id: int, record: Message) -> bool:
        """Write the `wire.Reply` of a call as `put` would; False if it has arrays."""
        kind = self._plain.get(type(record)) or self.plain_kind(record)
        if not kind:
            return False
        start = len(buffer)
        try:
            self._put((route, (self._reply, id, (kind, record, 0), False)), buffer, -1)
        except Exception as error:
            del buffer[start:]
            raise self._not_plain(record, error) from error
        return True

    def plain_kind(self, record: Message) -> str:
        """Return the kind of a record that can hold no array, '' for one that can."""
        kind = type(record)
        plain = self._plain.get(kind)
        if plain is None:
            plain = self._plain[kind] = kind_of(kind) if _is_plain(kind) else ""
        return plain

    def _not_plain(self, record: Any, error: Exception) -> Exception:
        if isinstance(record, Message):  # it was to be written in its place
            return WireError(self._why_not(record, error))
        return error

    def copy_op(self, op: wire.AnyOp) -> wire.AnyOp:
        """Send an operation through bytes and back, as a link would (forced codec in tests)."""
        buffer = bytearray()
        self.put(buffer, 0, op)
        return _ONE_OP.decode(buffer)[1]

    def open_batch(self, run: str, sender: str, to: str, lane: int) -> bytes:
        """Return how every batch of a lane of a link begins (see `wire.Head`), with room for the
        numbers that `close_batch` writes: what follows it is never copied again.
        """
        fields = (wire.PROTOCOL, run, sender, to, lane)
        return b"\x92\x97" + b"".join(_PLAIN.encode(f) for f in fields) + bytes(_NUMBERS.size)

    def close_batch(
        self, batch: bytearray, begin: bytes, number: int, ack: int, count: int
    ) -> None:
        """Write the numbers of a batch that started with `begin` and has `count` operations."""
        at = len(begin) - _NUMBERS.size
        _NUMBERS.pack_into(batch, at, 0xCF, number, 0xCF, ack, 0xDD, count)

    def encode_batch(self, head: wire.Head, ops: Iterable[tuple[int, wire.AnyOp]] = ()) -> bytes:
        """Return the header frame of a batch, made at once."""
        buffer, count = bytearray(), 0
        for route, op in ops:
            self.put(buffer, route, op)
            count += 1
        size = count.to_bytes(4, "big")
        return b"".join((b"\x92", _PLAIN.encode(head), b"\xdd", size, buffer))

    def decode_batch(self, frames: Sequence[Frame]) -> wire.Batch:
        """Check the limits, then decode the header. Raises TooLarge or WireError."""
        if not frames:
            raise WireError("an empty message came in")
        header = frames[0]
        check_sizes(len(frames), sum(len(f) for f in frames), len(header))
        if len(header) > MAX_OBJECTS:
            check_objects(header, "a message")
        try:
            batch = self._batch_decoder.decode(header)
        except _DAMAGED as error:
            raise WireError(f"a damaged batch came in: {error}") from None
        if batch.head.protocol != wire.PROTOCOL:
            raise WireError(
                f"{batch.head.sender} speaks protocol {batch.head.protocol}, this run is "
                f"{wire.PROTOCOL}: is it the same realnet everywhere?"
            )
        return batch

    def copy(self, record: Message) -> Message:
        """Send a record through bytes and back, as a wire would (forced codec in tests)."""
        body, frames = self.encode(record)
        return self.decode(body, frames)

    def _pack_array(self, value: Any) -> Any:
        return arrays.pack(value, self._inline_bytes, self._out)

    def _unpack_array(self, code: int, data: memoryview) -> Any:
        try:
            return arrays.unpack(code, data, self._frames)
        except ValueError as error:
            self._damage = str(error)
            return arrays.Damaged(self._damage)

    def _why_not(self, record: Message, error: Exception) -> str:
        """Say which value of a record cannot be encoded: the first one that fails alone."""
        path, value, name = "$", record, kind_of(type(record))
        for _ in range(MAX_DEPTH):
            for step, child in _inside(value):
                try:
                    self._encoder.encode(child)
                except Exception as its_error:
                    path, value, error = path + step, child, its_error
                    break
            else:
                break
        self._out = []
        return f"{name} cannot be sent: {path} holds a {type(value).__name__}: {error}"


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the values inside a value, each with its step on the path."""
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield f".{field}", getattr(value, field)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
        for key in value:
            yield f"[key {key!r}]", key
    elif isinstance(value, list | tuple | set | frozenset):
        for place, item in enumerate(value):
            yield f"[{place}]", item


@functools.cache  # as `may_be_deep`
def _is_plain(kind: type) -> bool:
    """Tell whether a record type is made of plain values only, through and through."""
    seen: set[int] = set()
    todo: list[Any] = [msgspec.inspect.type_info(kind)]
    while todo:
        info = todo.pop()
        if isinstance(info, msgspec.inspect.CustomType | msgspec.inspect.AnyType):
            return False
        if id(info) not in seen:
            seen.add(id(info))
            for name in info.__struct_fields__:
                value = getattr(info, name)
                for part in value if isinstance(value, tuple) else (value,):
                    if isinstance(part, msgspec.inspect.Type):
                        todo.append(part)
                    elif isinstance(part, msgspec.inspect.Field):
                        todo.append(part.type)
    return True
