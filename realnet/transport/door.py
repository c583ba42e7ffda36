"""The door of a process: one ROUTER for guests, who dial in because nobody can call them.

A ROUTER names each connection by itself. Who is behind one is learned from the first batch that
came through it and was believed (its key and what it says of itself agree), and again after every
reconnect: what a caller says of itself alone never directs anything to it. ROUTER_MANDATORY makes
a send to a connection that is gone fail instead of vanish; the session then holds what is sent
until its peer comes in again.

Sending can eat the wake-up of what waits to be received on the same socket, so after a send it is
looked at again (see ZMQ_FD in `zmq.py`). Knows nothing of records. Owned by `zmq.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

import zmq

from realnet.codec import Frame
from realnet.transport import OnMessage
from realnet.transport.sockets import (
    COPY_BELOW_BYTES,
    DONTWAIT,
    DONTWAIT_MORE,
    DRAIN,
    raw_send,
    take_message,
    user_of,
)


class Door:
    """The bound end for guests, and through which connection each of them came in."""

    def __init__(
        self, socket: zmq.Socket[bytes], *, secure: bool, met: Callable[[str, bool], None]
    ):
        self.socket = socket
        self._secure = secure
        self._met = met
        self._ways: dict[str, bytes] = {}
        self._on_message: OnMessage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking = False

    def listen(self, loop: asyncio.AbstractEventLoop, on_message: OnMessage) -> None:
        """Start to receive."""
        self._loop, self._on_message = loop, on_message
        loop.add_reader(int(self.socket.fd), self._readable)
        self._look_again()

    def knows(self, peer: str) -> bool:
        """Tell whether a peer has come in and can be answered."""
        return peer in self._ways

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        """Hand one message to the connection that a peer came by; without one it is dropped."""
        via = self._ways.get(peer)
        if via is None:
            return
        last = len(frames) - 1
        try:
            raw_send(self.socket, via, DONTWAIT_MORE, True)
            for i, frame in enumerate(frames):
                flags = DONTWAIT_MORE if i < last else DONTWAIT
                raw_send(self.socket, frame, flags, len(frame) < COPY_BELOW_BYTES)
        except zmq.Again:
            pass  # no room: the session asks after it
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            del self._ways[peer]
            self._met(peer, False)
        self._look_again()

    def forget(self, peer: str) -> None:
        """The peer is dead."""
        self._ways.pop(peer, None)

    def close(self) -> None:
        """Stop receiving. The socket stays its owner's to close."""
        if self._loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._loop.remove_reader(int(self.socket.fd))
        self._on_message = None

    def _believed(self, via: bytes, peer: str) -> None:
        """What came by this connection is truly from that peer."""
        if self._ways.get(peer) != via:
            self._ways[peer] = via
            self._met(peer, True)

    def _look_again(self) -> None:
        if not self._looking and self._loop is not None:
            self._looking = True
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        self._looking = False
        for _ in range(DRAIN):
            if self.socket.closed or self._on_message is None:
                return
            try:
                frames, first = take_message(self.socket)
            except zmq.Again:
                return
            via = bytes(frames.pop(0))
            user = user_of(first) if self._secure else None
            self._on_message(frames, user, partial(self._believed, via))
        self._look_again()
