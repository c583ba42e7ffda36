"""Links over ZeroMQ: one PULL inbox that is bound, one PUSH to each peer; ipc or tcp.

Two sockets a process pair measured fastest, and lose nothing to a ROUTER's silent drops. The inbox
is read through ZMQ_FD by the loop itself, not through zmq.asyncio (7x fewer asks a second). The FD
is edge-triggered: it is drained until EAGAIN, at most `DRAIN` messages a turn.

A broken connection loses what was under way, and says nothing: a monitor of each link tells the
session above when a connection is lost and when there is one again. With IMMEDIATE nothing is
queued for a peer that is not connected; the session has it. (A monitor costs two descriptors, 70 us
once, and no time when idle.) HWM is unlimited on purpose: it counts messages, is soft, and blocks
or drops; memory is bounded by the grants and credits of the wires, and by the session.

ipc endpoints are sockets of mode 0600 in a folder of mode 0700, one for each incarnation. tcp binds
one address, never all, and a port that the system chooses; with keys only this run's get in.

Knows nothing of records. Besides `security.py` the only file that imports zmq.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import zmq
from zmq.utils.monitor import parse_monitor_message

from realnet.codec import MAX_BATCH_BYTES, Frame
from realnet.errors import RealnetError
from realnet.transport import OnConnection, OnMessage, OnTrouble
from realnet.transport.security import Doorkeeper, Keys

DRAIN = 256
MAX_IPC_PATH = 100  # sun_path holds 108 bytes, ZeroMQ's own prefix and the end included
COPY_BELOW_BYTES = 64 * 1024
_LINK_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_DOOR_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def ipc_endpoint(folder: Path, name: str) -> str:
    """Return where a process of this host listens. Raises RealnetError if the path is too long."""
    path = folder / name
    if len(str(path)) > MAX_IPC_PATH:
        raise RealnetError(
            f"the socket path {path} has {len(str(path))} characters, the system allows "
            f"{MAX_IPC_PATH}: set TMPDIR to a shorter folder"
        )
    return f"ipc://{path}"


def tcp_endpoint(host: str) -> str:
    """Return an endpoint on one address of this host, with a port that the system chooses."""
    return f"tcp://{host}:*"


class ZmqTransport:
    """One bound inbox and its outgoing links."""

    def __init__(self, endpoint: str, keys: Keys | None = None):
        self.on_connection: OnConnection | None = None
        self.on_trouble: OnTrouble | None = None
        self._keys = keys
        self._scheme = endpoint.partition(":")[0]
        self._context = zmq.Context(io_threads=1)
        self._door = Doorkeeper(self._context, keys) if keys is not None else None
        self._inbox = self._socket(zmq.PULL)
        self._inbox.set(zmq.RCVHWM, 0)
        self._inbox.set(zmq.MAXMSGSIZE, MAX_BATCH_BYTES)
        self._inbox.set(zmq.BACKLOG, 1024)
        if keys is not None:
            self._inbox.set(zmq.CURVE_SERVER, 1)
            self._inbox.set(zmq.CURVE_SECRETKEY, keys.secret)
        self._inbox_monitor = self._inbox.get_monitor_socket(_DOOR_EVENTS)
        self._inbox_monitor.set(zmq.LINGER, 0)
        self._inbox.bind(endpoint)
        self.endpoint = str(self._inbox.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        if self._scheme == "ipc":
            os.chmod(self.endpoint.removeprefix("ipc://"), 0o600)
        self._strangers = 0
        self._outs: dict[str, tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = {}
        self._on_message: OnMessage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive on the running loop."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(self._inbox.fd), self._readable)
        self._loop.call_soon(self._readable)  # what came before the reader was there
        self._loop.add_reader(int(self._inbox_monitor.fd), self._door_event)
        self._loop.call_soon(self._door_event)
        if self._door is not None:
            self._door.refused = self._refused

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer. Its inbox is bound already: it said so."""
        if peer in self._outs:
            return
        if endpoint.partition(":")[0] != self._scheme:
            raise RealnetError(
                f"{peer} is at {endpoint}, and this process links over {self._scheme} only"
            )
        out = self._socket(zmq.PUSH)
        out.set(zmq.SNDHWM, 0)
        out.set(zmq.IMMEDIATE, 1)
        if self._keys is not None:
            slot = peer.partition("~")[0]
            if slot not in self._keys.public:
                out.close(linger=0)
                raise RealnetError(f"{peer} has no key in this run")
            out.set(zmq.CURVE_SERVERKEY, self._keys.public[slot])
            out.set(zmq.CURVE_SECRETKEY, self._keys.secret)
            out.set(zmq.CURVE_PUBLICKEY, self._keys.public[self._keys.slot])
        monitor = out.get_monitor_socket(_LINK_EVENTS)
        monitor.set(zmq.LINGER, 0)
        loop = asyncio.get_running_loop()
        loop.add_reader(int(monitor.fd), self._link_event, peer)
        loop.call_soon(self._link_event, peer)
        out.connect(endpoint)
        self._outs[peer] = out, monitor

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        """Hand one message to the connection; without one it is dropped. No copy if large."""
        link = self._outs.get(peer)
        if link is None:
            return
        out, last = link[0], len(frames) - 1
        for i, frame in enumerate(frames):
            flags = zmq.DONTWAIT | (zmq.SNDMORE if i < last else 0)
            try:
                out.send(frame, flags, copy=len(frame) < COPY_BELOW_BYTES)
            except zmq.Again:
                if i == 0:
                    return
                # Lost in the middle of a message: ZeroMQ drops the rest of it, if it gets the rest.

    def disconnect(self, peer: str) -> None:
        """Drop a peer and what has not reached it."""
        link = self._outs.pop(peer, None)
        if link is not None:
            self._close(*link, linger_ms=0)

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued, for at most `linger_s`, and end."""
        if self._loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._loop.remove_reader(int(self._inbox.fd))
        self._close(self._inbox, self._inbox_monitor, linger_ms=0)
        for link in self._outs.values():
            self._close(*link, linger_ms=int(linger_s * 1000))
        self._outs.clear()
        self._context.term()
        if self._door is not None:
            self._door.join()

    def _close(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], linger_ms: int) -> None:
        if self._loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._loop.remove_reader(int(monitor.fd))
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=linger_ms)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 1000)  # the default, for ever, makes exits hang
        socket.set(zmq.RECONNECT_IVL, 10)
        socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        socket.set(zmq.HANDSHAKE_IVL, 5000)
        if self._scheme == "tcp":  # a cable that is out says nothing: ask now and then
            socket.set(zmq.HEARTBEAT_IVL, 1000)
            socket.set(zmq.HEARTBEAT_TIMEOUT, 5000)
            socket.set(zmq.HEARTBEAT_TTL, 5000)
        return socket

    def _readable(self) -> None:
        """Drain the inbox; come back next turn if there is more than a turn's share."""
        if self._inbox.closed or self._on_message is None or self._loop is None:
            return
        for _ in range(DRAIN):
            try:
                parts = self._inbox.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            user = None if self._keys is None else _user(parts[0])
            # Small frames are copied out, since they outlive the message; large ones stay.
            self._on_message(
                [p.bytes if len(p) < COPY_BELOW_BYTES else p.buffer for p in parts], user
            )
            if self._inbox.closed:
                return
        self._loop.call_soon(self._readable)

    # ------------------------------------------------------------ what connections do

    def _link_event(self, peer: str) -> None:
        link = self._outs.get(peer)
        while link is not None and not link[1].closed:
            try:
                event = parse_monitor_message(link[1].recv_multipart(zmq.DONTWAIT))["event"]
            except zmq.Again:
                return
            if event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
                link[0].get(zmq.EVENTS)  # makes the socket take notice, before something is sent
                if self.on_connection is not None:
                    self.on_connection(peer, event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
            else:
                self._trouble(f"{peer} does not let us in: the keys do not fit")
            link = self._outs.get(peer)

    def _door_event(self) -> None:
        while not self._inbox_monitor.closed:
            try:
                event = parse_monitor_message(self._inbox_monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_DISCONNECTED:
                if self._strangers:  # it was never in
                    self._strangers -= 1
                elif self.on_connection is not None:
                    self.on_connection("", False)
                continue
            self._strangers += 1
            if event["event"] != zmq.EVENT_HANDSHAKE_FAILED_AUTH:  # the doorkeeper tells of those
                self._trouble(
                    f"refused a connection at {self.endpoint}: it does not speak as this run does "
                    "(no key, another key of ours, not ZeroMQ, or gone in the middle)"
                )

    def _trouble(self, text: str) -> None:
        if self.on_trouble is not None:
            self.on_trouble(text)

    def _refused(self, text: str) -> None:
        """Called on the doorkeeper's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._trouble, text)


def _user(frame: zmq.Frame) -> str:
    """Return the slot whose key a message came with, as the doorkeeper named it."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
