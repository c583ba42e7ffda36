"""The dial-only end of links: one DEALER to the door of each process, nothing bound.

For notebooks, login nodes and whatever stands behind NAT: nobody can call such a process, it calls
everybody. Frames and sessions are those of every other link; there is one lane. The connection is
the only address that the other end has of us, so the links speak first whenever there is a new one.

Knows nothing of records. Used by `guest/` for a run over tcp, or one with keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

import zmq
from zmq.utils.monitor import parse_monitor_message

from realnet.codec import INLINE_BYTES, MAX_BATCH_BYTES, Frame
from realnet.errors import RealnetError
from realnet.transport import OnConnection, OnMessage, OnTrouble
from realnet.transport.endpoints import parse_endpoint
from realnet.transport.security import Keys
from realnet.transport.sockets import (
    COPY_BELOW_BYTES,
    DONTWAIT,
    DONTWAIT_MORE,
    DRAIN,
    LINK_EVENTS,
    call_from,
    new_socket,
    raw_send,
    take_message,
)


class _Call:
    """The connection to one peer."""

    def __init__(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]):
        self.socket = socket
        self.monitor = monitor
        self.looking = False


class DialTransport:
    """The outgoing connections of a process that cannot be reached."""

    endpoint = ""
    num_lanes = 1
    inline_bytes = INLINE_BYTES
    seals = None

    def __init__(self, keys: Keys | None = None):
        self.on_connection: OnConnection | None = None
        self.on_trouble: OnTrouble | None = None
        self.refused = False  # somebody did not take our key
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._calls: dict[str, _Call] = {}
        self._on_message: OnMessage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def trust(self, public: Mapping[str, str]) -> None:
        """Learn the public keys of more slots, from one that is trusted."""
        if self._keys is not None:
            self._keys.public.update({slot: key.encode() for slot, key in public.items()})

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive on the running loop, from whomever is called."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()

    def connect(self, peer: str, endpoint: str) -> None:
        """Call a peer at its door. Raises RealnetError if it has none, or no key is known of it."""
        if peer in self._calls:
            return
        door, slot = parse_endpoint(endpoint).door, peer.partition("~")[0]
        if not door:
            raise RealnetError(f"{peer} at {endpoint or 'no address'} has no door for guests")
        if self._keys is not None and slot not in self._keys.public:
            raise RealnetError(f"{peer} has no key in this run")
        socket = new_socket(self._context, zmq.DEALER, 0, tcp=door.startswith("tcp:"))
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.MAXMSGSIZE, MAX_BATCH_BYTES)
        call_from(socket, self._keys, slot)
        monitor = socket.get_monitor_socket(LINK_EVENTS)
        monitor.set(zmq.LINGER, 0)
        self._calls[peer] = _Call(socket, monitor)
        loop = asyncio.get_running_loop()
        loop.add_reader(int(socket.fd), self._readable, peer)
        loop.add_reader(int(monitor.fd), self._event, peer)
        loop.call_soon(self._event, peer)
        socket.connect(door)

    def send(self, peer: str, frames: Sequence[Frame], lane: int = 0) -> None:
        """Hand one message to the connection; without one it is dropped. No copy if large."""
        call = self._calls.get(peer)
        if call is None:
            return
        last = len(frames) - 1
        with contextlib.suppress(zmq.Again):  # the session has it
            for i, frame in enumerate(frames):
                flags = DONTWAIT_MORE if i < last else DONTWAIT
                raw_send(call.socket, frame, flags, len(frame) < COPY_BELOW_BYTES)
        self._look_again(peer, call)

    def disconnect(self, peer: str) -> None:
        """Drop a peer and what has not reached it."""
        call = self._calls.pop(peer, None)
        if call is not None:
            self._close(call, 0)

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued, for at most `linger_s`, and end."""
        for call in self._calls.values():
            self._close(call, int(linger_s * 1000))
        self._calls.clear()
        self._context.term()

    def _close(self, call: _Call, linger_ms: int) -> None:
        if self._loop is not None:
            for socket in (call.socket, call.monitor):
                with contextlib.suppress(ValueError, RuntimeError):
                    self._loop.remove_reader(int(socket.fd))
        call.socket.disable_monitor()
        call.monitor.close(linger=0)
        call.socket.close(linger=linger_ms)

    def _look_again(self, peer: str, call: _Call) -> None:
        """A send can eat the wake-up of what waits to be received on the same socket."""
        if not call.looking and self._loop is not None:
            call.looking = True
            self._loop.call_soon(partial(self._readable, peer))

    def _readable(self, peer: str) -> None:
        call = self._calls.get(peer)
        if call is None or self._on_message is None:
            return
        call.looking = False
        user = peer.partition("~")[0] if self._keys is not None else None
        for _ in range(DRAIN):
            if call.socket.closed:
                return
            try:
                frames, _ = take_message(call.socket)
            except zmq.Again:
                return
            self._on_message(frames, user)
        self._look_again(peer, call)

    def _event(self, peer: str) -> None:
        while (call := self._calls.get(peer)) is not None and not call.monitor.closed:
            try:
                event = parse_monitor_message(call.monitor.recv_multipart(zmq.DONTWAIT))["event"]
            except zmq.Again:
                return
            if event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
                call.socket.get(zmq.EVENTS)  # makes the socket take notice, before a send
                self._look_again(peer, call)
                if self.on_connection is not None:
                    self.on_connection(peer, event == zmq.EVENT_HANDSHAKE_SUCCEEDED, 0)
            else:
                self.refused = True
                if self.on_trouble is not None:
                    self.on_trouble(f"{peer} does not let us in: our key is not of this run")
