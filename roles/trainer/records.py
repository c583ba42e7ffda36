"""What the trainer's journal holds: one record for each thing that must survive its death.

Arrivals (`Scored`, `GroupClosed`) are journaled as they came; the rest is here. Records are
array-encoded and grow only at the end, as on the wire. Knows nothing of what they change: that is
`store.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from realnet.codec import Codec
from realnet.errors import CheckpointError
from realnet.message import Message
from realnet.roles.journal import Record
from realnet.roles.messages import Group, GroupClosed, Scored
from realnet.wire import Body


class Issued(Message):
    """Tickets start .. end-1 were issued, to `asker`; `rewards`: a new standing, which they are
    dealt with.
    """

    start: int
    end: int
    rewards: dict[str, float] = {}
    asker: str = ""


class Handed(Message):
    """Drivers have these tickets. When this record is lost they are issued again: no harm."""

    tickets: tuple[int, ...]


class Ended(Message):
    """A ticket was set aside or dropped, and why."""

    ticket: int
    reason: str
    dropped: bool = False


class Redo(Message):
    """The rollouts of these tickets became useless: they are issued again."""

    tickets: tuple[int, ...]


class Forked(Message):
    """The trainer was resumed: a new branch begins at (parent, number)."""

    branch: int
    parent: int
    number: int


class Batch(Message):
    """These tickets are the batch of a step. A trainer that dies in it takes the same again."""

    step: int
    tickets: tuple[int, ...]


KINDS: tuple[type[Message], ...] = (Scored, GroupClosed, Issued, Handed, Ended, Redo, Forked, Batch)
_EVERYTHING_INLINE = 2**62
_codec = Codec(KINDS, inline_bytes=_EVERYTHING_INLINE)


def pack(record: Message) -> Record:
    """Return kind and bytes of a record, for the journal."""
    body, _ = _codec.encode(record)
    return body.kind, bytes(body.raw)


def pack_groups(groups: Sequence[Group]) -> bytes:
    """Return groups as one MessagePack list of [kind, body], to look at later."""
    return msgspec.msgpack.encode([pack(s) for group in groups for s in group.scored])


def unpack(kind: str, body: bytes, where: str) -> Message:
    """Return the record again. Raises CheckpointError naming the place."""
    try:
        return _codec.decode(Body(kind, msgspec.Raw(body), 0), [], where)
    except Exception as error:  # the digest held: an older or newer realnet wrote it
        raise CheckpointError(
            f"{where} holds a {kind} record that this realnet does not read: {error}. Resume with "
            "the version that wrote it"
        ) from error
