"""Typed records: what actors say to each other.

A `Message` is a frozen record, array-encoded on the wire: fields may be added at the end, with
defaults, and nowhere else. A `Request[Reply]` names the type of its reply, so that a type checker
infers what `await port(request)` returns. A `StreamRequest[Item]` is answered by many items.

Knows nothing of sockets, actors or reinforcement learning. Called by everybody who declares a
record; `codec.py` turns records into bytes and back.
"""

from __future__ import annotations

import types
from typing import Generic, TypeVar, dataclass_transform, get_args, get_origin

import msgspec

from realnet.schema import schema_hash as schema_hash

R = TypeVar("R")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class FrozenMeta(msgspec.StructMeta):
    """Tells type checkers what msgspec does at run time: subclasses are frozen as well."""


class Message(msgspec.Struct, metaclass=FrozenMeta, frozen=True, array_like=True):
    """Base of all records. The class docstring of a subclass is its protocol.

    An array in a record belongs to it from the moment it is sent: large ones leave without a copy,
    some time after `send` has returned, and inside a process the receiver gets the array itself.
    Whoever goes on writing to it sends a copy (`Grads(array.copy())`).
    """


class Request(Message, Generic[R]):
    """A record that wants exactly one reply of type R.

    Set the class attribute `safe` to True when handling it twice does no harm: only then is it
    sent to another member of a pool after the first one died.
    """


class StreamRequest(Message, Generic[R]):
    """A record that is answered by a stream of items of type R.

    Set the class attribute `bulk` to True when the items are large arrays: they then come by the
    lane where nothing small waits behind them.
    """


class Nothing(Message):
    """The reply of a request that wants only to be acknowledged."""


def reply_type(request: type[Message]) -> type[Message]:
    """Return R of a `Request[R]` or `StreamRequest[R]` subclass.

    Raises TypeError, naming the class, when it declares no reply.
    """
    for cls in request.__mro__:
        for base in (
            types.get_original_bases(cls)
            if hasattr(types, "get_original_bases")
            else (getattr(cls, "__orig_bases__", ()))
        ):
            if get_origin(base) in (Request, StreamRequest):
                (reply,) = get_args(base)
                if isinstance(reply, type):
                    return reply
    raise TypeError(
        f"{request.__name__} names no reply: write class {request.__name__}(Request[SomeReply])"
    )


def kind_of(record: type[Message]) -> str:
    """Return the name of a record type on the wire."""
    return record.__name__
