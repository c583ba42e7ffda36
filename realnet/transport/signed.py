"""The inbox of a lane that is signed and not encrypted: every message is checked, then handed on.

Checking costs the loop a while for each large message, so a turn ends after so many bytes. Knows
nothing of records: what is in a message is looked at only when its signature is right. Owned by
`zmq.py`; `seals.py` has the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import zmq

from realnet.errors import WireError
from realnet.transport import OnMessage
from realnet.transport.seals import Seals
from realnet.transport.sockets import DRAIN, take_message, user_of

TURN_BYTES = 8 * 2**20


class SignedInbox:
    """The bound end of a signed lane. `trouble` is told what was refused."""

    def __init__(
        self, socket: zmq.Socket[bytes], seals: Seals, trouble: Callable[[str], None]
    ) -> None:
        self._socket = socket
        self._seals = seals
        self._trouble = trouble
        self._on_message: OnMessage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, loop: asyncio.AbstractEventLoop, on_message: OnMessage) -> None:
        """Start to receive."""
        self._loop, self._on_message = loop, on_message
        loop.add_reader(int(self._socket.fd), self._readable)
        loop.call_soon(self._readable)

    def close(self) -> None:
        """Stop receiving. The socket stays its owner's to close."""
        if self._loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._loop.remove_reader(int(self._socket.fd))
        self._on_message = None

    def _readable(self) -> None:
        left = TURN_BYTES
        for _ in range(DRAIN):
            if self._on_message is None or self._socket.closed:
                return
            try:
                frames, first = take_message(self._socket)
            except zmq.Again:
                return
            left -= sum(map(len, frames))
            peer = user_of(first)
            try:
                known = self._seals.check(peer, frames)
            except WireError as error:
                self._trouble(str(error))
            else:
                if known:  # else it is dead by now
                    self._on_message(frames, peer.partition("~")[0])
            if left <= 0:
                break
        if self._loop is not None:
            self._loop.call_soon(self._readable)
