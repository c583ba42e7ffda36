"""A record on its way: encoded once, at first need, or not at all when it stays in the process.

Inside one process the record itself stands where a `wire.Body` would.

Knows nothing of links or ports. Used by the live ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.message import Message


class Parcel:
    """One record to be sent, however often it is sent."""

    def __init__(self, record: Message):
        self.record = record
        self._encoded: tuple[wire.Body, Sequence[Frame]] | None = None

    def body(self, codec: Codec, local: bool) -> tuple[wire.Body, Sequence[Frame]]:
        """Return what goes into an operation, and its frames."""
        if local:
            return cast(wire.Body, self.record), ()
        if self._encoded is None:
            self._encoded = codec.pack(self.record)
        return self._encoded


def record_of(codec: Codec, body: Any, frames: Sequence[Frame], sender: str) -> Message:
    """Return the record of an operation's body, decoding it if it came over a link."""
    return codec.decode(body, frames, sender) if type(body) is wire.Body else cast(Message, body)
