"""What crosses a link: a batch of operations, each on a route from port to port.

Array-encoded, so records grow only at the end, with defaults. Who speaks to whom is said once, when
a route is opened; after that an operation carries the number of its route. The body of a typed
record stays raw until the port it is for decodes it; arrays too large for the header follow as
frames of their own.

Knows nothing of sockets, delivery or actors. `codec.py` packs and unpacks batches, `links.py` sends
them; `calls.py`, `serving.py` and the ports use the operations.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from realnet.message import FrozenMeta

PROTOCOL = 3
# A peer's numbers are looked at as they are decoded, so that nobody divides by less than nothing.
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class Op(msgspec.Struct, metaclass=FrozenMeta, frozen=True, array_like=True, tag=True, gc=False):
    """Base of the operations."""


class Body(msgspec.Struct, metaclass=FrozenMeta, frozen=True, array_like=True, gc=False):
    """A typed record: its kind, its bytes, and how many frames of the batch belong to it.

    At the sender `raw` may be the record itself, which is then written in its place.
    """

    kind: str
    raw: msgspec.Raw
    frames: Count = 0


# share wires: producer -> consumer
class Backlog(Op, tag=1):
    """I hold `waiting` items for you, of `num_bytes` together, the next one of `need` bytes.

    I give back `unused` grants and `unused_bytes` of yours.
    """

    waiting: Count
    unused: Count = 0
    num_bytes: Count = 0
    unused_bytes: Count = 0
    need: Count = 0


class Item(Op, tag=2):
    """One item, used up one grant and `spent` bytes. `attempt` counts deliveries of it, from 1.

    `size` is what its record weighs.
    """

    id: Count
    key: str
    attempt: Count
    body: Body
    size: Count = 0
    spent: Count = 0


# share wires: consumer -> producer
class Grant(Op, tag=3):
    """Send me `count` more items, of `num_bytes` together.

    Take back what I do not tell progress of for `lease_s` seconds; 0: never.
    """

    count: Count
    num_bytes: Count = 0
    lease_s: Seconds = 0.0


class Ack(Op, tag=4):
    """These items are done; `aside` gives the reason if they were set aside instead."""

    ids: tuple[Count, ...]
    aside: str | None = None


class Working(Op, tag=13):
    """I work on what I have of you, except for the `idle` ones, on which nothing has moved."""

    idle: tuple[Count, ...] = ()


# asks
class Call(Op, tag=5):
    """A request with its remaining time budget in seconds; `credit` items of a stream may come.

    `trace` is one number for all that one cause leads to, `span` is this call within it.
    """

    id: Count
    budget_s: Seconds
    body: Body
    credit: Count = 0
    trace: int = 0
    span: int = 0


class Reply(Op, tag=6):
    """The reply to a call, or with `more` one item of its stream."""

    id: Count
    body: Body
    more: bool = False


class Fail(Op, tag=7):
    """The call failed; only text travels. `end` is the normal end of a stream."""

    id: Count
    error: str
    text: str
    end: bool = False


class Cancel(Op, tag=8):
    """The caller no longer wants this call."""

    id: Count


class Credit(Op, tag=9):
    """The stream of this call may send `count` more items."""

    id: Count
    count: Count


# state
class Value(Op, tag=10):
    """The latest value of a state port; `number` grows with every set."""

    number: Count
    body: Body


# one-way
class Tell(Op, tag=11):
    """A record that wants no reply (heartbeats, observations)."""

    body: Body


class Route(Op, tag=12):
    """From now on the number of this operation means this way, on this lane of this link."""

    to: str
    port: str
    sender: str
    sender_port: str


# for the link itself, on no route
class BulkKey(Op, tag=14):
    """How to sign what you send me in bulk. Goes on the control lane, which nobody else reads."""

    offer: bytes


ShareOp = Backlog | Item | Grant | Ack | Working
AskOp = Call | Reply | Fail | Cancel | Credit | Tell
AnyOp = ShareOp | AskOp | Value | Route | BulkKey


class Head(msgspec.Struct, metaclass=FrozenMeta, frozen=True, array_like=True, gc=False):
    """Who sends a batch to whom. `number` grows by one a batch, on each lane of a link.

    What follows `number` belongs to the session (`link.py`); a signal has no operations and number
    0. Who sends is a slot with its incarnation.
    """

    protocol: Count
    run: str
    sender: str
    to: str
    lane: Count
    number: Count
    ack: Count = 0
    high: Count = 0
    again: bool = False
    gone: Count = 0


class Batch(msgspec.Struct, metaclass=FrozenMeta, frozen=True, array_like=True):
    """All operations of one turn of the loop for one peer, each with the number of its route."""

    head: Head
    ops: list[tuple[Count, AnyOp]]
