"""Asks that are open: who asked whom, until when, and what came back.

One table for a process and one timer for all deadlines: a timer for each ask costs more than the
ask (measured 6-8 us against 5). The remaining time budget travels with the call, so no two clocks
are compared. When the callee dies its open calls fail at once; only requests that say they are safe
to handle twice go to another member.

Knows nothing of sockets, and of records only that they exist. Called by `live/ask.py`;
`serving.py` is the other end.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.errors import (
    AskError,
    DeadlineExceeded,
    NoPeer,
    PeerDied,
    Refused,
    WireError,
)
from realnet.message import Message
from realnet.parcel import Parcel, record_of
from realnet.waits import Waits

STREAM_CREDIT = 64
TICK_S = 0.02
MAX_STALE = 32
_ERRORS: dict[str, type[AskError]] = {
    c.__name__: c for c in (DeadlineExceeded, PeerDied, NoPeer, Refused)
}


class Asking(Protocol):
    """The port that a call was made through."""

    name: str
    peers: dict[str, str]

    def candidates(self) -> list[str]: ...
    def is_local(self, peer: str) -> bool: ...
    def post(self, peer: str, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None: ...
    async def somebody(self) -> None: ...


class _Open:
    """One open call. `items` collects what comes; a reply is a stream of one."""

    def __init__(self, id: int, port: Asking, peer: str, deadline_s: float):
        self.id = id
        self.port = port
        self.peer = peer
        self.deadline_s = deadline_s
        self.items: list[Message] = []
        self.ended = False
        self.error: AskError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, error: AskError) -> None:
        if not self.ended:
            self.ended, self.error = True, error
            self.wake()


class Calls:
    """The open calls of one actor."""

    def __init__(self, codec: Codec, waits: Waits, who: str, now: Callable[[], float]):
        self._codec = codec
        self._waits = waits
        self._who = who
        self._now = now
        self._open: dict[int, _Open] = {}
        self._load: dict[str, int] = {}  # peer -> open calls of this actor
        self._next = 0
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    async def ask(
        self, port: Asking, parcel: Parcel, budget_s: float, to: str | None = None
    ) -> Message:
        """Ask and wait for the reply. See `LiveAsk.__call__`."""
        deadline_s = self._now() + budget_s
        safe = to is None and bool(getattr(parcel.record, "safe", False))
        while True:
            call = await self._start(port, parcel, deadline_s, credit=0, to=to)
            try:
                while not call.items and not call.ended:
                    await self._wait(call, parcel)
            finally:
                self._end(call)
            if call.items:
                return call.items[0]
            assert call.error is not None
            if not (safe and isinstance(call.error, PeerDied)):
                raise call.error

    async def stream(self, port: Asking, parcel: Parcel, budget_s: float) -> AsyncIterator[Message]:
        """Ask and yield the items. See `LiveAsk.stream`."""
        call = await self._start(port, parcel, self._now() + budget_s, credit=STREAM_CREDIT)
        taken = 0
        try:
            while True:
                while not call.items and not call.ended:
                    await self._wait(call, parcel)
                items, call.items = call.items, []
                for item in items:
                    yield item
                taken += len(items)
                if call.ended and not call.items:
                    break
                if taken >= STREAM_CREDIT // 2:
                    port.post(call.peer, wire.Credit(call.id, taken))
                    taken = 0
            if call.error is not None:
                raise call.error
        finally:
            self._end(call)

    def receive(self, sender: str, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        """A reply, an item or a failure came for one of the open calls."""
        if not isinstance(op, wire.Reply | wire.Fail):
            return
        call = self._open.get(op.id)
        if call is None or call.peer != sender or call.ended:
            return  # the answer of a call that was given up
        if isinstance(op, wire.Fail):
            call.ended = True
            if not op.end:
                kind = _ERRORS.get(op.error, Refused)
                call.error = kind(op.text)
        else:
            try:
                call.items.append(record_of(self._codec, op.body, frames, sender))
                call.ended = not op.more
            except WireError as error:
                call.fail(Refused(str(error)))
        call.wake()

    def peer_down(self, port: Asking, peer: str) -> None:
        """A member of a pool died: fail what it was asked."""
        name = peer.partition("~")[0]
        for call in list(self._open.values()):
            if call.peer == peer and call.port is port:
                call.fail(PeerDied(f"{name} died while {self._who} was asking it ({port.name})"))

    def close(self) -> None:
        """Fail everything that is open; the actor is going."""
        for call in list(self._open.values()):
            call.fail(NoPeer(f"{self._who} is being stopped"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _start(
        self, port: Asking, parcel: Parcel, deadline_s: float, credit: int, to: str | None = None
    ) -> _Open:
        kind = type(parcel.record).__name__
        if to is not None and to not in port.peers:
            raise PeerDied(f"{to.partition('~')[0]} is not up ({self._who} asked for {kind})")
        while not port.peers:
            left_s = deadline_s - self._now()
            text = f"{self._who} asked for {kind} on port {port.name}, and nobody serves it now"
            if left_s <= 0:
                raise NoPeer(text)
            with self._waits.on(self._who, f"somebody who answers {kind}"):
                try:  # not wait_for: in Python 3.11 it can swallow a cancellation
                    async with asyncio.timeout(left_s):
                        await port.somebody()
                except TimeoutError:
                    raise NoPeer(text) from None
        peer = to or self._least_asked(port.candidates())
        self._next += 1
        call = _Open(self._next, port, peer, deadline_s)
        self._open[call.id] = call
        self._load[peer] = self._load.get(peer, 0) + 1
        if len(self._deadlines) > 2 * len(self._open) + MAX_STALE:  # of calls that have ended
            self._deadlines = [d for d in self._deadlines if d[1] in self._open]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline_s, call.id))
        self._arm()
        body, frames = parcel.body(self._codec, port.is_local(peer))
        port.post(
            peer, wire.Call(call.id, max(0.0, deadline_s - self._now()), body, credit), frames
        )
        return call

    def _least_asked(self, peers: list[str]) -> str:
        if len(peers) == 1:
            return peers[0]
        return min(peers, key=lambda peer: self._load.get(peer, 0))

    async def _wait(self, call: _Open, parcel: Parcel) -> None:
        call.waiter = asyncio.get_running_loop().create_future()
        name = call.peer.partition("~")[0]
        try:
            with self._waits.on(self._who, f"{name} ({type(parcel.record).__name__})", (name,)):
                await call.waiter
        finally:
            call.waiter = None

    def _end(self, call: _Open) -> None:
        if self._open.pop(call.id, None) is not None:
            left = self._load[call.peer] - 1
            if left:
                self._load[call.peer] = left
            else:
                del self._load[call.peer]
        if not call.ended:
            call.port.post(call.peer, wire.Cancel(call.id))

    def _arm(self) -> None:
        if not self._deadlines:
            return
        due_s = self._deadlines[0][0]
        if self._timer is not None:
            if self._timer_s <= due_s:
                return
            self._timer.cancel()  # it was set for a later one
        left_s = max(TICK_S, due_s - self._now())
        self._timer_s = due_s
        self._timer = asyncio.get_running_loop().call_later(left_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._now()
        while self._deadlines and self._deadlines[0][0] <= now + 1e-4:
            _, id = heapq.heappop(self._deadlines)
            call = self._open.get(id)
            if call is not None and not call.ended:
                name = call.peer.partition("~")[0]
                call.port.post(call.peer, wire.Cancel(call.id))
                call.fail(
                    DeadlineExceeded(
                        f"{name} did not answer {self._who} ({call.port.name}) in time"
                    )
                )
        while self._deadlines and self._deadlines[0][1] not in self._open:
            heapq.heappop(self._deadlines)
        self._arm()
