"""All links of one process: packets in, batches out, sessions kept.

Packets for one peer that come up in one turn of the loop leave as one batch. `link.py` decides what
is sent again, acknowledged and dropped; this carries it out over a transport. One timer serves all
links and runs only while something is owed or not acknowledged.

Knows nothing of actors, ports or who is alive: `node.py` owns it and is told of what comes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from realnet import wire
from realnet.codec import (
    INLINE_BYTES,
    MAX_BATCH_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    Codec,
    Frame,
)
from realnet.errors import TooLarge, WireError
from realnet.link import Effect, Session, Signal, Transmit
from realnet.transport import Transport

FLUSH_BYTES = 1 << 20
TICK_S = 0.1
CUT_S = 3.0
# What is refused at the other end must not leave, or it would be sent again for ever.
MAX_BYTES = MAX_BATCH_BYTES - 2 * MAX_HEADER_BYTES
MAX_BODY_BYTES = MAX_HEADER_BYTES // 2
MAX_PACKET_FRAMES = MAX_FRAMES - FLUSH_BYTES // INLINE_BYTES - 2


class Owner(Protocol):
    """Who hears of what the links bring."""

    closed: bool

    def take(self, slot: str, packet: wire.Packet, frames: list[Frame]) -> None: ...
    def told(self, error: WireError) -> None: ...
    def link_broken(self, slot: str, text: str) -> None: ...


class _Link:
    """What is waiting to go to one peer at the end of this turn, and the session with it."""

    def __init__(self, connected: bool) -> None:
        self.session = Session(connected=connected)
        self.open = connected
        self.packets: list[wire.Packet] = []
        self.frames: list[Frame] = []
        self.bytes = 0
        self.scheduled = False


class Links:
    """The links of one process. Peers are slots with their incarnation."""

    def __init__(
        self,
        slot: str,
        run: str,
        codec: Codec,
        transport: Transport,
        now: Callable[[], float],
        owner: Owner,
    ):
        self._slot, self._run = slot, run
        self._codec, self._transport = codec, transport
        self._now, self._owner = now, owner
        self._links: dict[str, _Link] = {}
        self._dead: set[str] = set()
        self._death_s = -1e9
        self._timer: asyncio.TimerHandle | None = None
        transport.on_connection = self.connection
        transport.on_trouble = lambda text: owner.told(WireError(text))

    # ------------------------------------------------------------ peers

    def open(self, peer: str, endpoint: str) -> None:
        """A peer can be reached."""
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = _Link(connected=True)
        self._transport.connect(peer, endpoint)
        if not link.open:  # it spoke first
            link.open = True
            self._do(peer, link.session.connection_up(self._now()))
            self._arm()

    def close(self, peer: str) -> None:
        """A peer is dead."""
        self._death_s = self._now()
        self._dead.add(peer)
        self._links.pop(peer, None)
        self._transport.disconnect(peer)

    def connection(self, peer: str, up: bool) -> None:
        """The transport lost the connection to a peer, or has one (again)."""
        link = self._links.get(peer)
        if self._owner.closed:
            return
        if not peer:
            asyncio.get_running_loop().call_later(CUT_S, self._incoming_cut)
        elif link is None or not link.open:
            return
        elif up:
            if not link.session.connected:
                self._owner.told(
                    WireError(f"the connection to {peer} was lost and is back; nothing is lost")
                )
            self._do(peer, link.session.connection_up(self._now()))
            self._arm()
        else:
            link.session.connection_down()

    def _incoming_cut(self) -> None:
        """An incoming connection broke a while ago: say so, unless somebody died about then."""
        if not self._owner.closed and self._now() - self._death_s > 2 * CUT_S:
            self._owner.told(
                WireError(
                    f"a connection to {self._slot} was cut while its process lives: the network, "
                    f"or a message of more than {MAX_BATCH_BYTES} bytes was refused"
                )
            )

    # ------------------------------------------------------------ out

    def add(self, peer: str, packet: wire.Packet, frames: Sequence[Frame], num_bytes: int) -> None:
        """Send a packet at the end of this turn; to an unknown or dead peer it is dropped."""
        size = num_bytes - sum(len(f) for f in frames)
        if num_bytes > MAX_BYTES or size > MAX_BODY_BYTES or len(frames) > MAX_PACKET_FRAMES:
            raise TooLarge(
                f"a record for {packet.port or 'a handler'} of {packet.to}, which goes to {peer} "
                f"and has {num_bytes} bytes in {len(frames)} frames, is too large for a link "
                f"(limits: {MAX_BYTES} bytes, {MAX_BODY_BYTES} outside of large arrays, "
                f"{MAX_PACKET_FRAMES} frames): send it in parts"
            )
        link = self._links.get(peer)
        if link is None or not link.open:
            return
        link.packets.append(packet)
        link.frames.extend(frames)
        link.bytes += num_bytes
        if link.bytes > FLUSH_BYTES:
            self._flush(peer)
        elif not link.scheduled:
            link.scheduled = True
            asyncio.get_running_loop().call_soon(self._flush, peer)

    def flush(self) -> None:
        """Send what waits, now (before a process ends)."""
        for peer in list(self._links):
            self._flush(peer)

    def _flush(self, peer: str) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        link.scheduled = False
        if not link.packets or self._owner.closed:
            return
        packets, link.packets = link.packets, []
        frames, link.frames = link.frames, []
        num_bytes, link.bytes = link.bytes, 0
        number, ack = link.session.next()
        header = self._codec.encode_batch(
            wire.Batch(wire.PROTOCOL, self._run, self._slot, number, packets, peer, ack)
        )
        self._do(peer, link.session.send([header, *frames], num_bytes, self._now()))
        self._arm()

    def _do(self, peer: str, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self._transport.send(peer, effect.payload)
            elif isinstance(effect, Signal):
                batch = wire.Batch(
                    *(wire.PROTOCOL, self._run, self._slot, 0, [], peer),
                    *(effect.ack, effect.high, effect.again, effect.gone),
                )
                self._transport.send(peer, [self._codec.encode_batch(batch)])
            elif effect.outgoing:
                self._owner.told(WireError(f"{effect.num} batches to {peer} were lost for good"))
            else:
                text = f"{effect.num} batches from {peer} were lost for good on the link"
                self._owner.link_broken(peer, text)

    # ------------------------------------------------------------ in

    def receive(self, frames: list[Frame], user: str | None = None) -> None:
        """A message came in. `user` is the slot that its key belongs to, if the link knows keys."""
        try:
            batch = self._codec.decode_batch(frames)
            self._check(batch, user)
        except WireError as error:
            self._owner.told(error)
            return
        peer = batch.sender
        if peer in self._dead or self._owner.closed:
            return
        link = self._links.get(peer)
        if link is None:  # it has heard of us before we have heard of it
            link = self._links[peer] = _Link(connected=False)
        received = link.session.received(
            batch.number,
            batch.ack,
            self._now(),
            num_bytes=sum(len(f) for f in frames),
            high=batch.high,
            again=batch.again,
            gone=batch.gone,
        )
        self._do(peer, received.effects)
        self._arm()
        if received.fresh:
            at = 1
            for packet in batch.packets:
                count = _num_frames(packet.op)
                self._owner.take(peer, packet, frames[at : at + count])
                at += count

    def _check(self, batch: wire.Batch, user: str | None) -> None:
        """Raise WireError unless a batch is of this run, for us, and from whom it says."""
        if user is not None and batch.sender.partition("~")[0] != user:
            raise WireError(
                f"refused a batch that says it is from {batch.sender}: its key is that of "
                f"{user or 'nobody'}"
            )
        if batch.run != self._run:
            raise WireError(
                f"refused a batch from {batch.sender} of run {batch.run!r}: this is {self._run!r}"
            )
        if batch.to != self._slot:
            raise WireError(
                f"refused a batch from {batch.sender} that is for {batch.to!r}: this is "
                f"{self._slot}"
            )

    # ------------------------------------------------------------ time

    def _arm(self) -> None:
        if self._timer is None and not self._owner.closed:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._owner.closed:
            return
        now_s, busy = self._now(), False
        for peer, link in list(self._links.items()):
            if link.open and link.session.busy:
                self._do(peer, link.session.tick(now_s))
                busy = busy or link.session.busy
        if busy:
            self._arm()


def _num_frames(op: wire.AnyOp) -> int:
    body = getattr(op, "body", None)
    return body.frames if body is not None else 0
