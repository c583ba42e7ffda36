"""All links of one process: operations in, batches out, sessions kept.

A link has lanes, so that small things do not wait behind large ones: control (asks, state), data
(shared work), bulk. Each lane is a session of its own with its own order. Operations for one lane
that come up in one turn of the loop leave as one batch. `link.py` decides what is sent again,
acknowledged and dropped; this carries it out over a transport. One timer serves all links and is
set only while something is owed or not acknowledged.

Knows nothing of actors, ports or who is alive: `node.py` owns it and is told of what comes in.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from realnet import wire
from realnet.codec import (
    MAX_BATCH_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    NEAR_INLINE_BYTES,
    Codec,
    Frame,
)
from realnet.errors import TooLarge, WireError
from realnet.link import ACK_S, Effect, Session, Signal, Transmit
from realnet.message import Message
from realnet.transport import Transport
from realnet.transport.endpoints import parse_endpoint
from realnet.ways import BULK, CONTROL, NUM_LANES, Take

# Then, or after so many operations, the other end works on these while the next are made; for less
# its wake-up would cost more than the wait. Through shared memory it costs most of all there is.
FLUSH_BYTES: Final = 3 << 17
NEAR_FLUSH_BYTES: Final = 7 << 17
FLUSH_OPS: Final = 32
ALMOST: Final = FLUSH_OPS - 1
SMALL_BYTES: Final = FLUSH_BYTES // FLUSH_OPS  # so many of these need no look at how much there is
TICK_S = 0.1
CUT_S = 3.0
# What is refused at the other end must not leave, or it would be sent again for ever.
MAX_BYTES = MAX_BATCH_BYTES - 2 * MAX_HEADER_BYTES
MAX_BODY_BYTES = MAX_HEADER_BYTES // 2
MAX_PACKET_FRAMES = MAX_FRAMES - NEAR_FLUSH_BYTES // NEAR_INLINE_BYTES - 2
MAX_ROUTES = 1 << 17


class Entry(Protocol):
    """Where a route ends here."""

    take: Take


class Owner(Protocol):
    """Who hears of what the links bring."""

    closed: bool

    def enter(self, slot: str, route: wire.Route) -> Entry:
        """A peer has opened a route to here: return what takes its operations, in order."""

    def told(self, error: WireError) -> None: ...
    def link_broken(self, slot: str, text: str) -> None: ...


class _Lane:
    """What is waiting to go to one peer at the end of this turn, and the session with it."""

    __slots__ = (
        *(
            "begin",
            "buffer",
            "count",
            "end_turn",
            "entries",
            "flush",
            "flush_bytes",
            "frame_bytes",
            "frames",
            "loop",
            "met",
        ),
        *("number", "open", "opened", "peer", "quiet", "routes", "scheduled", "session", "turn"),
    )

    def __init__(
        self,
        peer: str,
        number: int,
        begin: bytes,
        flush: Callable[[_Lane], None],
        end_turn: Callable[[_Lane], None],
        flush_bytes: int,
    ):
        self.loop = asyncio.get_running_loop()  # asking for it costs a system call
        self.peer = peer
        self.number = number
        self.session = Session(connected=False)
        self.open = False
        self.met = False  # whether there was a connection before
        self.begin = begin  # of every batch
        self.buffer = bytearray(begin)
        self.frames: list[Frame] = []
        self.frame_bytes = 0
        self.count = 0
        self.turn = 0  # operations of this turn that have left
        self.quiet = False  # the last turn had one operation
        self.scheduled = False
        self.opened = 0
        self.routes: dict[tuple[str, str, str, str], RemoteWay] = {}
        self.entries: dict[int, Entry] = {}
        self.flush = flush
        self.flush_bytes = flush_bytes
        self.end_turn = end_turn

    def added(self) -> None:
        """An operation was written: see that it leaves."""
        self.count += 1
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.end_turn, self)
            if self.quiet or self.frame_bytes > self.flush_bytes:
                self.flush(self)  # the last turn had no second one: do not wait for it
        elif self.count >= FLUSH_OPS or len(self.buffer) + self.frame_bytes > self.flush_bytes:
            self.flush(self)


class RemoteWay:
    """To a port of an actor in another process."""

    __slots__ = ("_codec", "_lane", "_number", "_route", "local")

    def __init__(self, lane: _Lane, codec: Codec, route: wire.Route):
        self.local = False
        self._lane = lane
        self._codec = codec
        self._number = 0  # until the route is opened, by the first operation on it
        self._route: wire.Route | None = route

    @property
    def far(self) -> RemoteWay:
        """It is one of those that write calls and replies themselves."""
        return self

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """Send an operation at the end of this turn; to a dead peer it is dropped."""
        lane = self._lane
        if not lane.open:
            return
        start = len(lane.buffer) if self._route is None else self._open()
        try:
            self._codec.put(lane.buffer, self._number, op)
        except BaseException:
            del lane.buffer[start:]
            raise
        size = len(lane.buffer) - start
        if frames or size > MAX_BODY_BYTES:
            self._add_frames(_kind(op), frames, start, size)
        lane.added()

    def call(self, id: int, budget_s: float, trace: int, record: Message) -> bool:
        """Send a call of a record without arrays, its own span; False if the record has any."""
        lane = self._lane
        if not lane.open:
            return True
        buffer = lane.buffer
        start = len(buffer) if self._route is None else self._open()
        if not self._codec.put_call(buffer, self._number, id, budget_s, trace, record):
            return False
        if lane.scheduled and lane.count < ALMOST and len(buffer) - start < SMALL_BYTES:
            lane.count += 1  # what `added` would do, without the steps there
        else:
            self._wrote(start, record)
        return True

    def reply(self, id: int, record: Message) -> bool:
        """Send the reply to a call, a record without arrays; False if it has any."""
        lane = self._lane
        if not lane.open:
            return True
        buffer = lane.buffer
        start = len(buffer) if self._route is None else self._open()
        if not self._codec.put_reply(buffer, self._number, id, record):
            return False
        if lane.scheduled and lane.count < ALMOST and len(buffer) - start < SMALL_BYTES:
            lane.count += 1
        else:
            self._wrote(start, record)
        return True

    def _wrote(self, start: int, record: Message) -> None:
        size = len(self._lane.buffer) - start
        if size > MAX_BODY_BYTES:
            self._add_frames(type(record).__name__, (), start, size)
        self._lane.added()

    def _open(self) -> int:
        """Tell the other end what the number of this way means; return where the batch is now."""
        lane, route = self._lane, self._route
        if route is not None:
            lane.opened += 1
            self._number = lane.opened
            self._codec.put(lane.buffer, self._number, route)
            lane.count += 1
            self._route = None
        return len(lane.buffer)

    def _add_frames(self, kind: str, frames: Sequence[Frame], start: int, size: int) -> None:
        lane = self._lane
        num_bytes = sum(len(f) for f in frames)
        if size > MAX_BODY_BYTES or num_bytes > MAX_BYTES or len(frames) > MAX_PACKET_FRAMES:
            del lane.buffer[start:]
            raise TooLarge(
                f"{kind} for {lane.peer} has {size + num_bytes} bytes, {size} of them outside "
                f"of large arrays, and {len(frames)} of those: too large for a link (limits: "
                f"{MAX_BYTES} bytes, {MAX_BODY_BYTES} outside of large arrays, {MAX_PACKET_FRAMES} "
                "frames): send it in parts"
            )
        lane.frames.extend(frames)
        lane.frame_bytes += num_bytes


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
        self._links: dict[str, list[_Lane]] = {}
        self._dead: set[str] = set()
        self._death_s = -1e9
        self._timer: asyncio.TimerHandle | None = None
        transport.on_connection = self.connection
        transport.on_trouble = lambda text: owner.told(WireError(text))

    # ------------------------------------------------------------ peers

    def open(self, peer: str, endpoint: str) -> None:
        """A peer can be reached; one with an empty endpoint reaches us. As many lanes as both have.

        Two of which neither can be called have no link.
        """
        if not endpoint and not self._transport.endpoint:
            return
        # A lane goes on when there is a connection: to a guest, when that has come in.
        lanes = self._links.get(peer)
        if lanes is None:
            lanes = self._links[peer] = self._lanes(peer)
        del lanes[len(parse_endpoint(endpoint).inboxes) or 1 :]
        self._transport.connect(peer, endpoint)
        if lanes[CONTROL].open:
            return
        seals = self._transport.seals if len(lanes) > BULK else None
        for lane in lanes:
            lane.open = True
            if endpoint and (seals is None or lane.number != BULK or seals.ready(peer)):
                self._up(lane)
        if seals is not None:
            buffer = lanes[CONTROL].buffer
            self._codec.put(buffer, 0, wire.BulkKey(seals.issue(peer)))  # on no route
            lanes[CONTROL].added()

    def _lanes(self, peer: str) -> list[_Lane]:
        num = min(NUM_LANES, self._transport.num_lanes)
        begins = [self._codec.open_batch(self._run, self._slot, peer, n) for n in range(num)]
        near = self._transport.inline_bytes == NEAR_INLINE_BYTES
        most = NEAR_FLUSH_BYTES if near else FLUSH_BYTES
        return [
            _Lane(peer, n, begin, self._flush, self._end_turn, most)
            for n, begin in enumerate(begins)
        ]

    def _up(self, lane: _Lane) -> None:
        """What waits for a peer may go to the transport."""
        lane.met = True
        effects = lane.session.connection_up(self._now())
        if effects:  # it spoke first, or something waits
            self._do(lane, effects)
            self._arm()

    def _bulk_key(self, lane: _Lane, op: wire.BulkKey) -> None:
        """A peer says how to sign what goes to it in bulk: that may go now."""
        seals = self._transport.seals
        if seals is None or lane.number != CONTROL:
            self._owner.told(WireError(f"{lane.peer} sent a key for bulk where none is wanted"))
            return
        try:
            if not seals.accept(lane.peer, op.offer):
                return
        except WireError as error:
            self._owner.told(error)
            return
        for bulk in self._links[lane.peer][BULK:]:
            if bulk.open:
                self._up(bulk)

    def close(self, peer: str) -> None:
        """A peer is dead."""
        self._death_s = self._now()
        self._dead.add(peer)
        for lane in self._links.pop(peer, ()):
            lane.open = False
            lane.buffer.clear()
            lane.frames.clear()
            lane.frame_bytes = lane.count = 0
        self._transport.disconnect(peer)

    def connection(self, peer: str, up: bool, lane_number: int = 0) -> None:
        """The transport lost the connection to a peer, or has one (again)."""
        if self._owner.closed:
            return
        if not peer:
            asyncio.get_running_loop().call_later(CUT_S, self._incoming_cut)
            return
        lanes = self._links.get(peer)
        if lanes is None or not lanes[lane_number].open:
            return
        lane = lanes[lane_number]
        if up:
            if lane.met and not lane.session.connected:
                self._owner.told(
                    WireError(f"the connection to {peer} was lost and is back; nothing is lost")
                )
            lane.met = True
            effects = lane.session.connection_up(self._now())
            if not effects and not self._transport.endpoint:  # who cannot be called speaks first
                effects = [Signal(0)]
            self._do(lane, effects)
            self._arm()
        else:
            lane.session.connection_down()

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

    def way(self, peer: str, route: wire.Route, lane_number: int) -> RemoteWay | None:
        """Return the way of a route to a peer; None while the peer cannot be reached."""
        lanes = self._links.get(peer)
        if lanes is None or not lanes[0].open:
            return None
        lane = lanes[min(lane_number, len(lanes) - 1)]
        key = (route.to, route.port, route.sender, route.sender_port)
        way = lane.routes.get(key)
        if way is None:
            way = lane.routes[key] = RemoteWay(lane, self._codec, route)
        return way

    def flush(self) -> None:
        """Send what waits, now (before a process ends)."""
        for lanes in list(self._links.values()):
            for lane in lanes:
                self._flush(lane)

    def stop(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_turn(self, lane: _Lane) -> None:
        lane.scheduled = False
        lane.quiet = lane.number == CONTROL and lane.turn + lane.count == 1
        lane.turn = 0
        if lane.count:
            self._flush(lane)

    def _flush(self, lane: _Lane) -> None:
        count = lane.count
        if not count or self._owner.closed:
            return
        session = lane.session
        number, ack = session.next()
        batch, lane.buffer = lane.buffer, bytearray(lane.begin)
        self._codec.close_batch(batch, lane.begin, number, ack, count)
        payload: list[Frame] = [batch]
        num_bytes = len(batch) - len(lane.begin) + lane.frame_bytes
        if lane.frames:
            payload += lane.frames
            lane.frames, lane.frame_bytes = [], 0
        lane.turn += count
        lane.count = 0
        self._do(lane, session.send(payload, num_bytes, self._now()))
        if self._timer is None:
            self._arm()

    def _do(self, lane: _Lane, effects: Sequence[Effect]) -> None:
        peer = lane.peer
        for effect in effects:
            if isinstance(effect, Transmit):
                self._transport.send(peer, effect.payload, lane.number)
            elif isinstance(effect, Signal):
                head = wire.Head(
                    *(wire.PROTOCOL, self._run, self._slot, peer, lane.number, 0),
                    *(effect.ack, effect.high, effect.again, effect.gone),
                )
                self._transport.send(peer, [self._codec.encode_batch(head)], lane.number)
            elif effect.outgoing:
                self._owner.told(WireError(f"{effect.num} batches to {peer} were lost for good"))
            else:
                text = f"{effect.num} batches from {peer} were lost for good on the link"
                self._owner.link_broken(peer, text)

    # ------------------------------------------------------------ in

    def receive(
        self,
        frames: list[Frame],
        user: str | None = None,
        believed: Callable[[str], None] | None = None,
    ) -> None:
        """A message came in. `user` is the slot that its key belongs to, if the link knows keys.

        `believed` is called with its sender, if that is in order (see `transport.OnMessage`).
        """
        try:
            batch = self._codec.decode_batch(frames)
            lane = self._lane_of(batch.head, user)
        except WireError as error:
            self._owner.told(error)
            return
        if lane is None:
            return
        head = batch.head
        if believed is not None:
            believed(head.sender)
        size = len(frames[0]) if len(frames) == 1 else sum(len(f) for f in frames)
        received = lane.session.received(
            head.number,
            head.ack,
            self._now(),
            num_bytes=size,
            high=head.high,
            again=head.again,
            gone=head.gone,
        )
        if received.effects:
            self._do(lane, received.effects)
        if self._timer is None:
            self._arm()
        if received.fresh:
            self._hand_out(lane, batch.ops, frames)

    def _hand_out(
        self, lane: _Lane, ops: Sequence[tuple[int, wire.AnyOp]], frames: list[Frame]
    ) -> None:
        entries, at, many = lane.entries, 1, len(frames) > 1
        none: list[Frame] = []
        for number, op in ops:
            entry = entries.get(number)
            if entry is None:
                self._opened(lane, number, op)
            elif many and (count := _num_frames(op)):
                entry.take(op, frames[at : at + count])
                at += count
            else:
                entry.take(op, none)

    def _opened(self, lane: _Lane, number: int, op: wire.AnyOp) -> None:
        if isinstance(op, wire.BulkKey):
            self._bulk_key(lane, op)
        elif not isinstance(op, wire.Route):
            self._owner.told(
                WireError(f"{lane.peer} sent {type(op).__name__} on route {number}: never opened")
            )
        elif len(lane.entries) >= MAX_ROUTES:
            self._owner.told(TooLarge(f"{lane.peer} opened more than {MAX_ROUTES} routes"))
        else:
            lane.entries[number] = self._owner.enter(lane.peer, op)

    def _lane_of(self, head: wire.Head, user: str | None) -> _Lane | None:
        """Return the lane that a batch is for, None if its sender is dead. Raises WireError unless
        it is of this run, for us, and from whom it says.
        """
        peer = head.sender
        if user is not None and peer.partition("~")[0] != user:
            raise WireError(
                f"refused a batch that says it is from {peer}: its key is that of "
                f"{user or 'nobody'}"
            )
        if head.run != self._run:
            raise WireError(
                f"refused a batch from {peer} of run {head.run!r}: this is {self._run!r}"
            )
        if head.to != self._slot:
            raise WireError(
                f"refused a batch from {peer} that is for {head.to!r}: this is {self._slot}"
            )
        if peer in self._dead or self._owner.closed:
            return None
        lanes = self._links.get(peer)
        if lanes is None:  # it has heard of us before we have heard of it
            lanes = self._links[peer] = self._lanes(peer)
        if not 0 <= head.lane < len(lanes):
            raise WireError(f"refused a batch from {peer} on lane {head.lane}: there is none")
        return lanes[head.lane]

    # ------------------------------------------------------------ time

    def _arm(self, after_s: float = ACK_S) -> None:
        """Tick once more. What begins to be owed from now on is due no sooner than in ACK_S."""
        if self._timer is None and not self._owner.closed:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._owner.closed:
            return
        now_s, due_s = self._now(), math.inf
        for lanes in list(self._links.values()):
            for lane in lanes:
                session = lane.session
                if lane.open and session.busy:
                    if session.due_s <= now_s:
                        self._do(lane, session.tick(now_s))
                    due_s = min(due_s, session.due_s)
        if due_s < math.inf:
            self._arm(min(max(due_s - now_s, TICK_S), ACK_S))


def _num_frames(op: wire.AnyOp) -> int:
    body = getattr(op, "body", None)
    return body.frames if body is not None else 0


def _kind(op: wire.AnyOp) -> str:
    body = getattr(op, "body", None)
    return body.kind if body is not None else type(op).__name__
