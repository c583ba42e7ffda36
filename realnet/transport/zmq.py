"""Links over ZeroMQ: for each lane one PULL inbox that is bound, and one PUSH to each peer.

Two sockets a process pair measured fastest, and lose nothing to a ROUTER's silent drops. An inbox
is read through ZMQ_FD by the loop itself (`inbox.py`), not through zmq.asyncio (7x fewer asks a
second).

Lanes have io threads of their own: what shares one waits behind every large message, whatever its
socket. Lanes beyond the first are connected when something is sent on them.

A broken connection loses what was under way, and says nothing: a monitor of each link tells the
session above when a connection is lost and when there is one again. With IMMEDIATE nothing is
queued for a peer that is not connected; the session has it. (A monitor costs two descriptors, 70 us
once, and no time when idle.) HWM is unlimited on purpose: it counts messages, is soft, and blocks
or drops; memory is bounded by the grants and credits of the wires, and by the session.

ipc endpoints are sockets of mode 0600 in a folder of mode 0700, one for each incarnation. tcp binds
named addresses, one but for the head of a run over several hosts (`others`), and ports that the
system chooses; with keys only this run's get in. Over ipc without keys large messages go through
shared memory, and the socket carries where they lie (`rings.py`). The endpoint of several lanes is
one text (`endpoints.py`). What goes in bulk may be signed, not encrypted (`seals.py`). Guests, whom
nobody can call, come in by a door of their own (`door.py`).

Knows nothing of records. zmq is imported in this folder only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import zmq
from zmq.utils.monitor import parse_monitor_message

from realnet.codec import INLINE_BYTES, NEAR_INLINE_BYTES, Frame
from realnet.errors import RealnetError
from realnet.host import has_memfd
from realnet.transport import OnConnection, OnMessage, OnTrouble
from realnet.transport.door import Door
from realnet.transport.endpoints import (
    bind_address,
    both_parts,
    door_address,
    endpoint_text,
    parse_endpoint,
)
from realnet.transport.inbox import Inbox
from realnet.transport.outbox import Outbox
from realnet.transport.pace import Pace
from realnet.transport.rings import FROM_BYTES, LET_GO_S, Rings
from realnet.transport.seals import Seals
from realnet.transport.security import Doorkeeper, Keys
from realnet.transport.signed import SignedInbox
from realnet.transport.sockets import (
    COPY_BELOW_BYTES,
    DONTWAIT,
    DONTWAIT_MORE,
    DOOR_EVENTS,
    LINK_EVENTS,
    call_from,
    call_signed_from,
    new_socket,
    raw_send,
    serve_on,
    serve_signed_on,
)
from realnet.ways import BULK, NUM_LANES

DOOR_LANE = 1  # its io thread: what guests take must not hold up the asks of the others
SWEEP_S = LET_GO_S + 1
MAX_IPC_PATH = 95  # sun_path holds 108 bytes, ZeroMQ's own prefix and the end included


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


class _Peer:
    """The connected ends to one peer, by lane."""

    def __init__(self, endpoints: list[str]):
        self.endpoints = endpoints
        self.outs: dict[int, tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = {}
        self.outbox: Outbox | None = None  # what large messages go through, if there are rings


class ZmqTransport:
    """The bound inboxes of one process and its outgoing links."""

    def __init__(
        self,
        endpoint: str,
        keys: Keys | None = None,
        num_lanes: int = NUM_LANES,
        *,
        guests: bool = False,
        sign_bulk: bool = False,
        others: Sequence[str] = (),
    ):
        self.on_connection: OnConnection | None = None
        self.on_trouble: OnTrouble | None = None
        self.num_lanes = num_lanes
        self._keys = keys
        self._scheme = endpoint.partition(":")[0]
        self._context = zmq.Context(io_threads=num_lanes)
        signed = sign_bulk and keys is not None and num_lanes > BULK
        self.seals = Seals() if signed else None
        admit = self.seals.admit if self.seals is not None else None
        self.inline_bytes = INLINE_BYTES
        self._rings = Rings() if self._scheme == "ipc" and keys is None else None
        if self._rings is not None and has_memfd():
            self.inline_bytes = NEAR_INLINE_BYTES
        self._pace = Pace()
        self._keeper = Doorkeeper(self._context, keys, admit) if keys is not None else None
        self._inboxes = [
            self._bind(zmq.PULL, lane, [bind_address(e, lane) for e in (endpoint, *others)])
            for lane in range(num_lanes)
        ]
        self._signed: SignedInbox | None = None
        if self.seals is not None:
            self._signed = SignedInbox(self._inboxes[BULK].socket, self.seals, self._trouble)
        self._door: Door | None = None
        if guests:
            doors = [door_address(e) for e in (endpoint, *others)]
            entrance = self._bind(zmq.ROUTER, min(DOOR_LANE, num_lanes - 1), doors)
            self._inboxes.append(entrance)
            self._door = Door(entrance.socket, secure=keys is not None, met=self._met)
        # The same process at each of its addresses; only the first is told to everybody.
        self.endpoints = tuple(
            endpoint_text(
                [i.bound[at] for i in self._inboxes[:num_lanes]],
                self._inboxes[-1].bound[at] if guests else "",
            )
            for at in range(1 + len(others))
        )
        self.endpoint = self.endpoints[0]
        if self._scheme == "ipc":
            for inbox in self._inboxes:
                os.chmod(inbox.bound[0].removeprefix("ipc://"), 0o600)
        self._peers: dict[str, _Peer] = {}
        self._guests: set[str] = set()  # peers whom nobody can call
        self._loop: asyncio.AbstractEventLoop | None = None

    def _bind(self, kind: int, lane: int, addresses: Sequence[str]) -> Inbox:
        inbox = self._socket(kind, lane)
        if self.seals is not None and lane == BULK and kind == zmq.PULL:
            serve_signed_on(inbox)
        else:
            serve_on(inbox, self._keys)
        if kind == zmq.ROUTER:
            inbox.set(zmq.ROUTER_MANDATORY, 1)  # or it drops what it cannot deliver, in silence
            inbox.set(zmq.SNDHWM, 0)
        monitor = inbox.get_monitor_socket(DOOR_EVENTS)
        monitor.set(zmq.LINGER, 0)
        bound = []
        for address in addresses:
            inbox.bind(address)
            bound.append(str(inbox.get_string(zmq.LAST_ENDPOINT)).rstrip("\0"))
        return Inbox(
            *(inbox, monitor, bound, self._trouble),
            keyed=self._keys is not None,
            rings=self._rings,
            pace=self._pace,
            behind=self._rings is not None and lane > 0,
        )

    def listen(self, on_message: OnMessage) -> None:
        """Start to receive on the running loop."""
        self._loop = loop = asyncio.get_running_loop()
        for lane, inbox in enumerate(self._inboxes):
            if self._signed is not None and lane == BULK:
                self._signed.listen(loop, on_message)
            elif inbox.socket.type == zmq.PULL:
                inbox.listen(loop, on_message)
            loop.add_reader(int(inbox.monitor.fd), self._door_event, inbox)
            loop.call_soon(self._door_event, inbox)
        if self._door is not None:
            self._door.listen(loop, on_message)
        if self._keeper is not None:
            self._keeper.refused = self._refused

    def connect(self, peer: str, endpoint: str) -> None:
        """Open the way to a peer. Its inbox is bound already: it said so; without one it calls."""
        if peer in self._peers:
            return
        if not endpoint:
            if self._door is None:
                raise RealnetError(f"{peer} cannot be called, and this process has no door for it")
            self._guests.add(peer)
            if self._door.knows(peer):
                asyncio.get_running_loop().call_soon(self._met, peer, True)
            return
        endpoint, _ = both_parts(endpoint)
        if endpoint.partition(":")[0] != self._scheme:
            raise RealnetError(
                f"{peer} is at {endpoint}, and this process links over {self._scheme} only"
            )
        if self._keys is not None and peer.partition("~")[0] not in self._keys.public:
            raise RealnetError(f"{peer} has no key in this run")
        there = self._peers[peer] = _Peer(list(parse_endpoint(endpoint).inboxes))
        if self._rings is not None:
            give = partial(self._give, peer, there)
            there.outbox = Outbox(peer, self._rings, self._pace, give)
        self._dial(peer, 0)

    def _dial(self, peer: str, lane: int) -> zmq.Socket[bytes]:
        """Connect one lane of a peer."""
        out = self._socket(zmq.PUSH, lane)
        if self.seals is not None and lane == BULK:
            call_signed_from(out, *self.seals.credentials(peer))
        else:
            call_from(out, self._keys, peer.partition("~")[0])
        monitor = out.get_monitor_socket(LINK_EVENTS)
        monitor.set(zmq.LINGER, 0)
        loop = asyncio.get_running_loop()
        loop.add_reader(int(monitor.fd), self._link_event, peer, lane)
        loop.call_soon(self._link_event, peer, lane)
        there = self._peers[peer]
        there.outs[lane] = out, monitor
        out.connect(there.endpoints[lane])
        return out

    def send(self, peer: str, frames: Sequence[Frame], lane: int = 0) -> None:
        """Hand one message to the connection; without one it is dropped. No copy if large."""
        there = self._peers.get(peer)
        if there is None:
            if peer in self._guests and self._door is not None:
                self._door.send(peer, frames)
            return
        if there.outbox is not None:
            if lane or len(frames) > 1 or len(frames[0]) >= FROM_BYTES:
                there.outbox.send(lane, frames)
                return
            self._pace.num_small += 1
        self._give(peer, there, lane, frames)

    def _give(self, peer: str, there: _Peer, lane: int, frames: Sequence[Frame]) -> None:
        """Give a message to the socket; without a connection it is dropped."""
        link = there.outs.get(lane)
        out = link[0] if link is not None else self._dial(peer, lane)
        signed = self.seals if lane == BULK else None
        last = len(frames) - (signed is None)
        try:
            if not last:
                raw_send(out, frames[0], DONTWAIT, len(frames[0]) < COPY_BELOW_BYTES)
                return
        except zmq.Again:
            return
        for i, frame in enumerate(frames):
            try:
                flags = DONTWAIT_MORE if i < last else DONTWAIT
                raw_send(out, frame, flags, len(frame) < COPY_BELOW_BYTES)
            except zmq.Again:
                if i == 0:
                    return
                # Lost in the middle of a message: ZeroMQ drops the rest of it, if it gets the rest.
        if signed is not None:
            with contextlib.suppress(zmq.Again):
                raw_send(out, signed.sign(peer, frames), DONTWAIT, True)

    def disconnect(self, peer: str) -> None:
        """Drop a peer and what has not reached it."""
        if self.seals is not None:
            self.seals.forget(peer)
        if self._rings is not None:
            self._rings.forget(peer)
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep, self._rings)
        if self._door is not None:
            self._guests.discard(peer)
            self._door.forget(peer)
        there = self._peers.pop(peer, None)
        if there is not None:
            if there.outbox is not None:
                there.outbox.close()
            for link in there.outs.values():
                self._close(*link, linger_ms=0)

    def _sweep(self, rings: Rings) -> None:
        """Let go of the rings of a peer that is gone, once nothing of it can wait here."""
        if rings.sweep():
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep, rings)

    def close(self, linger_s: float = 1.0) -> None:
        """Send what is queued, for at most `linger_s`, and end."""
        if self._door is not None:
            self._door.close()
        if self._signed is not None:
            self._signed.close()
        for there in self._peers.values():
            if there.outbox is not None:
                there.outbox.flush()
                there.outbox.close()
        for inbox in self._inboxes:
            inbox.stop()
            linger_ms = int(linger_s * 1000) if inbox.socket.type == zmq.ROUTER else 0
            self._close(inbox.socket, inbox.monitor, linger_ms)
        for there in self._peers.values():
            for link in there.outs.values():
                self._close(*link, linger_ms=int(linger_s * 1000))
        self._peers.clear()
        self._context.term()
        if self._rings is not None:
            self._rings.close()
        if self._keeper is not None:
            self._keeper.join()

    def _close(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], linger_ms: int) -> None:
        if self._loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                self._loop.remove_reader(int(monitor.fd))
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=linger_ms)

    def _socket(self, kind: int, lane: int) -> zmq.Socket[bytes]:
        return new_socket(self._context, kind, lane, tcp=self._scheme == "tcp")

    # ------------------------------------------------------------ what connections do

    def _met(self, peer: str, up: bool) -> None:
        """A guest has come in (again), or what it came by is gone."""
        if peer in self._guests and self.on_connection is not None:
            self.on_connection(peer, up, 0)

    def _link_event(self, peer: str, lane: int) -> None:
        while True:
            there = self._peers.get(peer)
            link = there.outs.get(lane) if there is not None else None
            if link is None or link[1].closed:
                return
            try:
                event = parse_monitor_message(link[1].recv_multipart(zmq.DONTWAIT))["event"]
            except zmq.Again:
                return
            if event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
                link[0].get(zmq.EVENTS)  # makes the socket take notice, before something is sent
                if self._rings is not None:
                    self._rings.cut(peer, lane)
                if self.on_connection is not None:
                    self.on_connection(peer, event == zmq.EVENT_HANDSHAKE_SUCCEEDED, lane)
            else:
                self._trouble(f"{peer} does not let us in: the keys do not fit")

    def _door_event(self, inbox: Inbox) -> None:
        while not inbox.monitor.closed:
            try:
                event = parse_monitor_message(inbox.monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_DISCONNECTED:
                if inbox.strangers:  # it was never in
                    inbox.strangers -= 1
                elif self.on_connection is not None:
                    self.on_connection("", False)
                continue
            inbox.strangers += 1
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
