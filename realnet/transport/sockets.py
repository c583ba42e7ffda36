"""Sockets as this framework wants them: the options of libzmq that bite, set; messages in and out.

Knows nothing of records, peers or lanes beyond their io threads. Used by `zmq.py`, `door.py` and
`dial.py`.
"""

from __future__ import annotations

from typing import Any

import zmq
import zmq.backend

from realnet.codec import MAX_BATCH_BYTES, Frame
from realnet.transport.security import Keys

DRAIN = 256
COPY_BELOW_BYTES = 64 * 1024
# Not the methods of zmq.Socket: those wrap these two, at twice the cost of a small message.
raw_send: Any = zmq.backend.Socket.send
raw_recv: Any = zmq.backend.Socket.recv
_get: Any = zmq.backend.Socket.get
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
DONTWAIT, DONTWAIT_MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
LINK_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
DOOR_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Tell whether a message waits: a third of what the exception costs that says no."""
    return bool(_get(socket, _EVENTS) & _POLLIN)


def new_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, lane: int, *, tcp: bool
) -> zmq.Socket[bytes]:
    """Make a socket on the io thread of a lane."""
    socket = context.socket(kind)
    socket.set(zmq.AFFINITY, 1 << lane)
    socket.set(zmq.LINGER, 1000)  # the default, for ever, makes exits hang
    socket.set(zmq.RECONNECT_IVL, 10)
    socket.set(zmq.RECONNECT_IVL_MAX, 1000)
    socket.set(zmq.HANDSHAKE_IVL, 5000)
    if tcp:  # a cable that is out says nothing: ask now and then
        socket.set(zmq.HEARTBEAT_IVL, 1000)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 5000)
        socket.set(zmq.HEARTBEAT_TTL, 5000)
    return socket


def serve_on(socket: zmq.Socket[bytes], keys: Keys | None) -> None:
    """Set what a socket that will be bound needs; with keys only this run's get in."""
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.MAXMSGSIZE, MAX_BATCH_BYTES)
    socket.set(zmq.BACKLOG, 1024)
    if keys is not None:
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, keys.secret)


def call_from(socket: zmq.Socket[bytes], keys: Keys | None, slot: str) -> None:
    """Set what a socket that will call a slot needs; nothing is queued while it is not there."""
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.IMMEDIATE, 1)
    if keys is not None:
        socket.set(zmq.CURVE_SERVERKEY, keys.public[slot])
        socket.set(zmq.CURVE_SECRETKEY, keys.secret)
        socket.set(zmq.CURVE_PUBLICKEY, keys.public[keys.slot])


def serve_signed_on(socket: zmq.Socket[bytes]) -> None:
    """Set what a socket for signed messages needs: the doorkeeper asks for names and passwords."""
    serve_on(socket, None)
    socket.set(zmq.PLAIN_SERVER, 1)


def call_signed_from(socket: zmq.Socket[bytes], name: bytes, password: bytes) -> None:
    """Set what a socket that will call one for signed messages needs."""
    call_from(socket, None, "")
    socket.set(zmq.PLAIN_USERNAME, name)
    socket.set(zmq.PLAIN_PASSWORD, password)


def take_message(socket: zmq.Socket[bytes]) -> tuple[list[Frame], zmq.Frame]:
    """Return the frames of the next message, and its first one for what is known of its sender.

    Small frames are copied out, since they outlive the message; large ones stay. Raises zmq.Again.
    """
    part = first = raw_recv(socket, DONTWAIT, False)
    frames: list[Frame] = [part.bytes]
    while part.more:
        part = raw_recv(socket, DONTWAIT, False)
        frames.append(part.bytes if len(part) < COPY_BELOW_BYTES else part.buffer)
    return frames, first


def user_of(frame: zmq.Frame) -> str:
    """Return the slot whose key a message came with, as the doorkeeper named it."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
