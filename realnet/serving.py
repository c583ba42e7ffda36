"""The answering end of asks: one mailbox, as many workers as calls that wait in a handler.

What comes in goes to the mailbox, bounded in messages and bytes; who finds it full is refused at
once (Overloaded). A worker is a task that answers one call after another as long as none waits;
when one does, the next worker takes over, so that calls run side by side without a task for each.
Cancelling reaches the handler and is acknowledged. What is out of time when its turn comes is not
begun. Only the text of an error travels back, never its code. A stream sends no more items than its
caller gave credit for.

Knows nothing of links. One per actor, made by `cell.py`; `calls.py` is the other end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.context import caller, current
from realnet.errors import AskError, RealnetError, WireError, listed, nearest
from realnet.message import Message, Request, StreamRequest, reply_type
from realnet.opencall import AskedHere
from realnet.served import Caller, ServedCall
from realnet.servedstream import give
from realnet.ways import Take, Way, is_bulk

MAX_IDLE = 16
UNWEIGHED: Final = 16  # messages without large arrays: to weigh these few costs more than it tells
TURN_S: Final = 0.02  # how long handlers that never wait may keep the loop to themselves
_Op, _Word, _Reply, _Body = wire.Call, wire.Tell, wire.Reply, wire.Body
__all__ = ["Mailbox", "Serving", "caller"]


class Mailbox(NamedTuple):
    """How much may wait for an actor, what its handlers are at included."""

    messages: int = 10_000
    bytes: int = 256 * 2**20


class Surroundings(Protocol):
    """What serving needs of the actor's cell."""

    codec: Codec

    def way(self, to: str, port: str, sender_port: str, lane: int) -> Way: ...
    def task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]: ...
    def report(self, error: BaseException) -> None: ...
    def told(self, error: WireError) -> None: ...
    def now(self) -> float: ...


class Serving:
    """The calls that one actor is answering. `handlers` maps a request type to its bound method."""

    def __init__(
        self,
        cell: Surroundings,
        who: str,
        handlers: dict[type[Message], Callable[[Any], Any]],
        mailbox: Mailbox,
    ):
        self._cell = cell
        self._who = who
        self._handlers = handlers
        self._replies: dict[type[Message], type[Message]] = {
            kind: reply_type(kind) for kind in handlers if issubclass(kind, Request | StreamRequest)
        }
        self._bound = mailbox
        self._callers: dict[tuple[str, str], Caller] = {}
        self._mailbox: deque[ServedCall] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._coming = False
        self.closing = False
        self.open = 0
        self.open_bytes = 0
        self._taken = 0

    @property
    def answered(self) -> int:
        """How many calls and words have been done with."""
        return self._taken - self.open

    # ------------------------------------------------------------ what comes in

    def taker(self, sender: str, sender_port: str) -> Take:
        """Return what takes the operations of one port that calls."""
        key = (sender, sender_port)
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = Caller(self._cell, sender, sender_port)
        bound, mailbox, now = self._bound, self._mailbox, self._cell.now
        asked, word = _Op, _Word  # compiled, a global is looked up each time

        def take(op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
            here: Any = op
            if isinstance(here, AskedHere):
                id, size = here.id, 0
                record, trace, until_s = here.record, here.trace, here.deadline_s
                call = ServedCall(caller, sender, record, (), 0, id, 0, trace, id, until_s, here)
            elif type(op) is asked:
                body, id = op.body, op.id
                size = _size(body, frames) if frames or self.open > UNWEIGHED else 0
                expires_s = now() + op.budget_s
                call = ServedCall(
                    caller, sender, body, frames, size, id, op.credit, op.trace, op.span, expires_s
                )
            elif type(op) is word:
                body, id = op.body, 0
                size = _size(body, frames) if frames or self.open > UNWEIGHED else 0
                call = ServedCall(caller, sender, body, frames, size)
            else:
                self._steer(caller, op)
                return
            if self.closing or self.open >= bound.messages or self.open_bytes > bound.bytes:
                self._turn_away(call)
                return
            if id:
                caller.calls[id] = call
            self.open += 1
            self._taken += 1
            self.open_bytes += size
            mailbox.append(call)
            if not self._coming:
                self._rouse()

        return take

    def _steer(self, caller: Caller, op: wire.AnyOp) -> None:
        """A cancellation of a call, or more credit for its stream."""
        if isinstance(op, wire.Cancel):
            known = caller.calls.get(op.id)
            if known is not None:
                self._cancel(known)
        elif isinstance(op, wire.Credit):
            known = caller.calls.get(op.id)
            if known is not None:
                known.credit += op.count
                if known.more is not None:
                    known.more.set()

    def _turn_away(self, call: ServedCall) -> None:
        """Nothing new is taken now; who asks hears so at once."""
        if self.closing:
            self._fail(call, "NoPeer", "it has been stopped")
            return
        text = (
            f"the mailbox is full ({self.open} messages, {self.open_bytes} bytes; bounds: "
            f"{self._bound.messages}, {self._bound.bytes}): ask less at once, or give the role "
            "more members"
        )
        self._fail(call, "Overloaded", text)
        if not call.id:
            self._cell.told(WireError(f"{self._who} dropped a word of {call.sender}: {text}"))

    def close(self) -> None:
        """The actor is being stopped: who waits for its turn hears so, and whoever comes later."""
        self.closing = True
        while self._mailbox:
            call = self._mailbox.popleft()
            call.done = True
            call.caller.calls.pop(call.id, None)
            self.open -= 1
            self.open_bytes -= call.num_bytes
            self._fail(call, "NoPeer", "it is being stopped")

    def peer_down(self, peer: str) -> None:
        """A caller died: nobody wants its answers."""
        for key in [k for k in self._callers if k[0] == peer]:
            for call in list(self._callers.pop(key).calls.values()):
                self._cancel(call)

    def _cancel(self, call: ServedCall) -> None:
        if not call.done and not call.cancelled:
            call.cancelled = True
            if call.worker is not None:
                call.worker.cancel()
                call.interrupted = True

    # ------------------------------------------------------------ workers

    def _rouse(self) -> None:
        """Let a worker come that is not busy."""
        self._coming = True
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():  # it is when its worker was cancelled
                idle.set_result(None)
                return
        self._cell.task(self._work(), "worker")

    async def _work(self) -> None:
        mailbox, me = self._mailbox, asyncio.current_task()
        codec, handlers, now = self._cell.codec, self._handlers, self._cell.now
        replies, body, streams, enter = self._replies, _Body, StreamRequest, current.set
        request: Any
        reply: Any
        while not self.closing:
            self._coming = False
            at_s = now()
            until_s = at_s + TURN_S
            while mailbox:
                if at_s > until_s:  # beats and timers first: the next worker goes on after them
                    if not self._coming:
                        self._rouse()
                    break
                call = mailbox.popleft()
                if mailbox and not self._coming:
                    self._rouse()  # should this call wait, the next ones do not
                call.worker = me
                enter(call)
                at_s = now()
                try:
                    if call.cancelled or call.expires_s < at_s:
                        self._too_late(call)
                    else:  # no `continue`: mypyc has none inside of try and finally
                        request = call.body
                        if type(request) is body:
                            request = codec.decode(request, call.frames, call.sender)
                        handler = handlers.get(type(request))
                        if handler is None:
                            raise self._no_handler(call, request)
                        if isinstance(request, streams):
                            await self._stream(call, handler, request)
                        elif not call.id:
                            await handler(request)
                        else:
                            reply = await handler(request)
                            if type(reply) is not replies.get(type(request)):
                                self._check_reply(call, request, reply)
                            if call.asked is not None:
                                call.asked.answer(reply)
                            else:
                                way = call.caller.way or call.caller.find_way()
                                self._reply(call, way, reply, more=False)
                except asyncio.CancelledError:
                    if call.cancelled:
                        self._fail(call, "Cancelled", "cancelled")
                        if me is not None and me.cancelling() > call.interrupted:
                            raise  # the actor is going at the same time: one error tells of both
                    elif me is not None and me.cancelling():  # the actor is going
                        if self.closing:
                            self._fail(call, "NoPeer", "it is being stopped")
                        raise
                    else:  # in silence its caller would wait until its deadline
                        self._failed(call, RuntimeError("cancelled by what its handler waited for"))
                except Exception as error:
                    self._failed(call, error)
                finally:
                    call.done, call.worker = True, None
                    call.body, call.frames, call.asked = None, (), None  # tasks may keep the rest
                    self.open -= 1
                    self.open_bytes -= call.num_bytes
                    call.caller.calls.pop(call.id, None)
                    if call.interrupted and me is not None:
                        me.uncancel()  # what others want of this worker stays
            if self.closing or len(self._idle) >= MAX_IDLE:
                return
            request = reply = None  # an idle worker keeps no arrays
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    def _too_late(self, call: ServedCall) -> None:
        if call.cancelled:
            self._fail(call, "Cancelled", "cancelled")
        else:
            self._fail(call, "DeadlineExceeded", "its time was over before its turn came")

    def _no_handler(self, call: ServedCall, request: Message) -> WireError:
        kind, known = type(request).__name__, [k.__name__ for k in self._handlers]
        return WireError(
            f"{self._who} answers no {kind}, which {call.sender} sent."
            f"{nearest(kind, known)} It answers: {listed(known)}"
        )

    def _check_reply(self, call: ServedCall, request: Message, reply: Any) -> None:
        """Raise unless a reply is what its request declares; a subclass is not: it is not sent."""
        wanted = self._replies.get(type(request))
        if wanted is None:
            raise self._not_asked(call, request)
        handler = getattr(self._handlers[type(request)], "__name__", "its handler")
        raise TypeError(
            f"{handler} of {self._who} answered {type(request).__name__} with a "
            f"{type(reply).__name__}, and what it declares is {wanted.__name__}"
        )

    def _check_item(self, call: ServedCall, request: Message, item: Message) -> None:
        if type(item) is not self._replies.get(type(request)):
            self._check_reply(call, request, item)

    def _not_asked(self, call: ServedCall, request: Message) -> WireError:
        kind, how = type(request).__name__, "asked for" if call.id else "told"
        return WireError(f"{call.sender} {how} {kind}, which {self._who} is not {how}")

    def _failed(self, call: ServedCall, error: Exception) -> None:
        """Say no to the caller. What is not an answer, nor the caller's fault, is this actor's."""
        kind = type(error).__name__ if isinstance(error, AskError) else "Refused"
        text = str(error) if isinstance(error, RealnetError) else f"{type(error).__name__}: {error}"
        self._fail(call, kind, text)
        if isinstance(error, WireError):
            self._cell.told(error)
        elif not call.id or not isinstance(error, RealnetError):
            self._cell.report(error)

    async def _stream(
        self, call: ServedCall, handler: Callable[[Any], Any], request: Message
    ) -> None:
        if not call.id:
            raise self._not_asked(call, request)
        items = cast("AsyncIterator[Message]", handler(request))
        bulk = getattr(request, "bulk", False)
        way = call.caller.bulk if bulk else call.caller.find_way()
        check = partial(self._check_item, call, request)
        await give(call, items, check, partial(self._reply, call, way, more=True))
        way.send(wire.Fail(call.id, "", "", end=True))  # behind the items, whatever their lane

    # ------------------------------------------------------------ what goes back

    def _reply(self, call: ServedCall, way: Way, reply: Message, more: bool) -> None:
        if way.local:
            way.send(_Reply(call.id, cast(wire.Body, reply), more))
            return
        if not more and way.far is not None and way.far.reply(call.id, reply):
            return
        body, frames = self._cell.codec.pack(reply)
        if frames and not more and is_bulk(frames):
            way = call.caller.bulk
        way.send(_Reply(call.id, body, more), frames)

    def _fail(self, call: ServedCall, kind: str, text: str) -> None:
        if call.id:
            call.caller.find_way().send(wire.Fail(call.id, kind, f"{self._who}: {text}"))


def _size(body: wire.Body, frames: Sequence[Frame]) -> int:
    if type(body) is not _Body:  # a record of this process
        return 0
    size = len(memoryview(body.raw))
    return size + sum(len(f) for f in frames) if frames else size
