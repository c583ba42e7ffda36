"""Asks that are open: who asked whom, until when, and what came back.

The remaining time budget travels with the call, so no two clocks are compared; an ask made while a
call is answered has no more time than that call has left. When the callee dies its open calls fail
at once; only requests that say they are safe to handle twice go to another member. A call that was
given up counts as open with its member until that has acknowledged the end of it.

Knows nothing of sockets, and of records only that they exist. Called by `live/ask.py` and
`callstream.py`; `serving.py` is the other end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.context import current, traces
from realnet.deadlines import Deadlines
from realnet.errors import (
    AskError,
    DeadlineExceeded,
    NoPeer,
    Overloaded,
    PeerDied,
    Refused,
    WireError,
)
from realnet.message import Message
from realnet.opencall import Asking, Member, OpenCall
from realnet.waits import Wait, Waits
from realnet.ways import Take

_Call, _Reply, _Body = wire.Call, wire.Reply, wire.Body
_ERRORS: dict[str, type[AskError]] = {
    c.__name__: c for c in (DeadlineExceeded, PeerDied, NoPeer, Refused, Overloaded)
}


class Calls:
    """The open calls of one actor."""

    def __init__(
        self,
        codec: Codec,
        waits: Waits,
        deadlines: Deadlines,
        who: str,
        now: Callable[[], float],
    ):
        self._codec = codec
        self._waits = waits
        self._deadlines = deadlines
        self._who = who
        self._now = now
        self._open: dict[int, OpenCall] = {}
        self._next = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call
        self._context = current.get
        self._new_trace = traces.__next__
        waits.sources[who] = self._going_on

    @property
    def ended(self) -> int:
        """How many calls have got their answer, or never will."""
        return self._next - len(self._open)

    @property
    def open(self) -> int:
        """How many calls have not ended, given up ones that are not acknowledged included."""
        return len(self._open)

    async def ask(
        self, port: Asking, record: Message, budget_s: float, to: str | None = None
    ) -> Message:
        """Ask and wait for the reply. See `LiveAsk.__call__`."""
        while True:
            member = port.only if to is None else None
            if member is None:
                member = port.choose(record, to)
                if member is None:
                    budget_s = await self.somebody(port, record, budget_s)
                    continue
            waiter = (self._loop or self._find_loop()).create_future()
            call = self.start(port, member, record, budget_s, waiter)
            left = False
            try:
                far = member.far
                if far is not None:
                    left = far.call(call.id, call.deadline_s - call.since_s, call.trace, record)
                if not left:  # it stays in this process, or holds arrays
                    self.send(call, 0)
                    left = True
                return await waiter  # type: ignore[no-any-return]
            except PeerDied:
                # The death of one whom the member itself asked is its answer, not its own death.
                if to is not None or not member.gone or not getattr(record, "safe", False):
                    raise
                budget_s = call.deadline_s - self._now()
            finally:
                if call.ended or not left:
                    self.end(call)
                else:
                    self.give_up(call)

    def taker(self, sender: str) -> Take:
        """Return what takes the answers of one member."""
        calls, codec = self._open, self._codec
        reply, body = _Reply, _Body  # compiled, a global is looked up each time

        def take(op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
            if type(op) is not reply:
                self._failed(sender, op)
                return
            call = calls.get(op.id)
            if call is None or call.member.full != sender:
                return  # the answer of a call that has ended
            if call.ended:  # given up: now its member has done with it
                if not op.more:
                    self.end(call)
                return
            record: Any = op.body
            if type(record) is body:
                try:
                    record = codec.decode(record, frames, sender)
                except WireError as error:
                    if call.items is not None:  # nobody will take the rest
                        call.member.way.send(wire.Cancel(call.id))
                    call.fail(Refused(str(error)))
                    return
            waiter = call.waiter
            if call.items is None:
                call.ended = True
                if waiter is not None and not waiter.done():
                    waiter.set_result(record)
            else:
                call.ended = not op.more
                call.items.append(record)
                _wake(waiter)

        return take

    def _failed(self, sender: str, op: wire.AnyOp) -> None:
        call = self._open.get(op.id) if isinstance(op, wire.Fail) else None
        if call is None or call.member.full != sender or not isinstance(op, wire.Fail):
            return
        if call.ended:
            self.end(call)
        elif op.end:
            call.ended = True
            _wake(call.waiter)
        else:
            call.fail(_ERRORS.get(op.error, Refused)(op.text))

    def peer_down(self, member: Member, port: Asking) -> None:
        """A member of a pool died: fail what it was asked."""
        member.gone = True
        for call in list(self._open.values()):
            if call.member is member:
                call.fail(
                    PeerDied(f"{member.name} died while {self._who} was asking it ({port.name})")
                )
                if call.waiter is None or call.waiter.cancelled():
                    self.end(call)

    def expired(self, call: OpenCall) -> None:
        """The time of a call is over."""
        if not call.ended:
            call.member.way.send(wire.Cancel(call.id))
            call.fail(
                DeadlineExceeded(
                    f"{call.member.name} did not answer {self._who} ({call.port.name}) in time"
                )
            )
        else:
            self.end(call)  # given up, and never acknowledged

    def close(self) -> None:
        """Fail everything that is open; the actor is going."""
        for call in list(self._open.values()):
            call.fail(NoPeer(f"{self._who} is being stopped"))
            self.end(call)
        self._waits.sources.pop(self._who, None)

    # ------------------------------------------------------------ one call

    def start(
        self,
        port: Asking,
        member: Member,
        record: Message,
        budget_s: float,
        waiter: asyncio.Future[Any] | None,
    ) -> OpenCall:
        now_s = self._now()
        deadline_s, trace = now_s + budget_s, 0
        context = self._context()
        if context is not None:
            trace = context.trace
            if not context.done and context.expires_s < deadline_s:
                deadline_s = context.expires_s  # who asked us does not wait longer
        if deadline_s < now_s:
            # It may be late already (asked again after a death): a negative budget would be no
            # budget, and the whole batch that it is in would be refused.
            deadline_s = now_s
        self._next = id = self._next + 1
        call = OpenCall(
            id, record, deadline_s, trace or self._new_trace(), self, port, member, now_s, waiter
        )
        self._open[id] = call
        member.load += 1
        call.bucket = self._deadlines.add(call, deadline_s)
        return call

    def send(self, call: OpenCall, credit: int) -> None:
        member, id = call.member, call.id
        if member.local and not credit:
            here: Any = call  # in the place of a `wire.Call`
            member.way.send(here)
            return
        budget_s = call.deadline_s - call.since_s
        body: Any = call.record
        frames: Sequence[Frame] = ()
        if not member.local:
            body, frames = self._codec.pack(call.record)
        way = member.way_for(frames) if frames else member.way
        way.send(_Call(id, budget_s, body, credit, call.trace, id), frames)

    def _find_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def end(self, call: OpenCall) -> None:
        """Nothing more comes for this call."""
        if self._open.pop(call.id, None) is not None:
            call.member.load -= 1
            if call.bucket is not None:
                call.bucket.pop(call, None)

    def give_up(self, call: OpenCall) -> None:
        """Nobody waits for it any more: say so; it ends when that is acknowledged."""
        call.ended = True
        call.waiter = None
        call.member.way.send(wire.Cancel(call.id))

    async def somebody(self, port: Asking, record: Message, budget_s: float) -> float:
        """Wait until the pool has a member; return what is left of the budget."""
        start_s, kind = self._now(), type(record).__name__
        text = f"{self._who} asked for {kind} on port {port.name}, and nobody serves it now"
        if budget_s <= 0:
            raise NoPeer(text)
        with self._waits.on(self._who, f"somebody who answers {kind}"):
            try:  # not wait_for: in Python 3.11 it can swallow a cancellation
                async with asyncio.timeout(budget_s):
                    await port.somebody()
            except TimeoutError:
                raise NoPeer(text) from None
        return budget_s - (self._now() - start_s)

    def _going_on(self) -> Iterator[Wait]:
        for call in self._open.values():
            if not call.ended:
                name = call.member.name
                kind = type(call.record).__name__
                yield Wait(self._who, f"{name} ({kind})", call.since_s, (name,))


def _wake(waiter: asyncio.Future[Any] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
