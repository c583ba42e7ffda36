"""Links over ZeroMQ: one PULL inbox that is bound, one PUSH to each peer.

Two sockets a process pair measured fastest, and lose nothing to a ROUTER's silent drops. The inbox
is read through ZMQ_FD by the loop itself, not through zmq.asyncio (7x fewer asks a second). The FD
is edge-triggered: it is drained until EAGAIN, at most `DRAIN` messages a turn.

HWM is unlimited on purpose: it counts messages, is soft, and blocks or drops; memory is bounded by
the grants and credits of the wires above. Endpoints are ipc paths in a folder of mode 0700; each
incarnation has a path of its own, so a connection never reaches a successor by accident.

Knows nothing of records. The only file that imports zmq.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import zmq

from realnet.codec import MAX_BATCH_BYTES, Frame
from realnet.errors import RealnetError
from realnet.transport import OnMessage

DRAIN = 256
MAX_IPC_PATH = 100  # sun_path holds 108 bytes, ZeroMQ's own prefix and the end included
COPY_BELOW_BYTES = 64 * 1024


class ZmqTransport:
    """One bound inbox and its outgoing links."""

    def __init__(self, socket_folder: Path, name: str):
        path = socket_folder / name
        if len(str(path)) > MAX_IPC_PATH:
            raise RealnetError(
                f"the socket path {path} has {len(str(path))} characters, the system allows "
                f"{MAX_IPC_PATH}: set TMPDIR to a shorter folder"
            )
        self.endpoint = f"ipc://{path}"
        self._context = zmq.Context(io_threads=1)
        self._inbox = self._socket(zmq.PULL)
        self._inbox.set(zmq.RCVHWM, 0)
        self._inbox.set(zmq.MAXMSGSIZE, MAX_BATCH_BYTES)
        self._inbox.bind(self.endpoint)
        self._outs: dict[str, zmq.Socket[bytes]] = {}
        self._on_message: OnMessage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive on the running loop."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(self._inbox.fd), self._readable)
        self._loop.call_soon(self._readable)  # what came before the reader was there

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer. Its inbox is bound already: it said so."""
        if peer in self._outs:
            return
        if not endpoint.startswith("ipc://"):
            raise RealnetError(f"{peer} is at {endpoint}: this build links one host over ipc only")
        out = self._socket(zmq.PUSH)
        out.set(zmq.SNDHWM, 0)
        out.connect(endpoint)
        self._outs[peer] = out

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        """Queue one message; large frames are not copied."""
        out = self._outs.get(peer)
        if out is None:
            return
        last = len(frames) - 1
        for i, frame in enumerate(frames):
            flags = zmq.DONTWAIT | (zmq.SNDMORE if i < last else 0)
            out.send(frame, flags, copy=len(frame) < COPY_BELOW_BYTES)

    def disconnect(self, peer: str) -> None:
        """Drop a peer and what has not reached it."""
        out = self._outs.pop(peer, None)
        if out is not None:
            out.close(linger=0)

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued, for at most `linger_s`, and end."""
        if self._loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._loop.remove_reader(int(self._inbox.fd))
        self._inbox.close(linger=0)
        for out in self._outs.values():
            out.close(linger=int(linger_s * 1000))
        self._outs.clear()
        self._context.term()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 1000)  # the default, for ever, makes exits hang
        socket.set(zmq.RECONNECT_IVL, 10)
        socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        socket.set(zmq.HANDSHAKE_IVL, 5000)
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
            # Small frames are copied out, since they outlive the message; large ones stay.
            self._on_message([p.bytes if len(p) < COPY_BELOW_BYTES else p.buffer for p in parts])
        self._loop.call_soon(self._readable)
