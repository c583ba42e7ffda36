"""Attack programs: each a process of its own that sends what it has no right to send."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import zmq

from realnet import wire
from realnet.codec import Codec

# Sends one message over and over until its input is closed.
PROGRAM = """
import sys, zmq
endpoint, server, secret, path = sys.argv[1:]
frame = open(path, "rb").read()
socket = zmq.Context().socket(zmq.PUSH)
socket.set(zmq.LINGER, 0)
socket.set(zmq.RECONNECT_IVL, 20)
if secret:
    socket.set(zmq.CURVE_SERVERKEY, bytes.fromhex(server))
    socket.set(zmq.CURVE_SECRETKEY, bytes.fromhex(secret))
    socket.set(zmq.CURVE_PUBLICKEY, zmq.curve_public(bytes.fromhex(secret)))
socket.connect(endpoint)
poller = zmq.Poller()
poller.register(socket, zmq.POLLOUT)
poller.register(sys.stdin.fileno(), zmq.POLLIN)
left = 5
while True:
    ready = dict(poller.poll())
    if sys.stdin.fileno() in ready:
        break
    socket.send(frame)
    left -= 1
    if not left:
        poller.unregister(socket)
socket.close(0)
"""


def batch(run: str, sender: str, to: str, actor: str = "", at: str = "") -> bytes:
    """Return a batch that cancels a call, in the name of an actor, at an actor (else the slots)."""
    head = wire.Head(wire.PROTOCOL, run, sender, to, 0, 1)
    ops = [(1, wire.Route(at or to, "", actor or sender, "")), (1, wire.Cancel(1))]
    return Codec().encode_batch(head, ops)


def attack(endpoint: str, server: bytes, secret: bytes, message: Path) -> subprocess.Popen[bytes]:
    """Start a program that knocks at `endpoint` with a message; without a secret, without keys."""
    public = zmq.curve_public(server)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, endpoint, public.hex(), secret.hex(), str(message)],
        stdin=subprocess.PIPE,
    )
