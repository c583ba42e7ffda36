"""The answering end of asks: one task for a call, replies and streams with credit.

Cancelling reaches the task. Only the text of an error travels back, never its code. A stream sends
no more items than its caller gave credit for.

Knows nothing of links. One per actor, made by `cell.py`; `calls.py` is the other end.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Protocol, cast

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.errors import AskError, RealnetError, WireError, listed, nearest
from realnet.message import Message, StreamRequest
from realnet.parcel import Parcel, record_of

_caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="")
Respond = Callable[[wire.AnyOp, Sequence[Frame]], None]


def caller() -> str:
    """Inside a handler: the full address of the actor whose request or word this is."""
    return _caller.get()


class Surroundings(Protocol):
    """What serving needs of the actor's cell."""

    codec: Codec

    def post(
        self, to: str, port: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame] = ()
    ) -> None: ...
    def is_local(self, peer: str) -> bool: ...
    def task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]: ...


class _Call:
    def __init__(self, credit: int):
        self.credit = credit
        self.more = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Serving:
    """The calls that one actor is answering. `handlers` maps a kind to its bound method."""

    def __init__(self, cell: Surroundings, who: str, handlers: dict[str, Callable[[Any], Any]]):
        self._cell = cell
        self._who = who
        self._handlers = handlers
        self._calls: dict[tuple[str, str, int], _Call] = {}

    @property
    def open(self) -> int:
        """How many calls are being answered."""
        return len(self._calls)

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        """A call, its cancellation, more credit for its stream, or a word that wants no reply."""
        _caller.set(sender)
        if isinstance(op, wire.Call):
            self._call(sender, sender_port, op, frames)
        elif isinstance(op, wire.Cancel):
            call = self._calls.get((sender, sender_port, op.id))
            if call is not None and call.task is not None:
                call.task.cancel()
        elif isinstance(op, wire.Credit):
            call = self._calls.get((sender, sender_port, op.id))
            if call is not None:
                call.credit += op.count
                call.more.set()
        elif isinstance(op, wire.Tell):
            record = record_of(self._cell.codec, op.body, frames, sender)
            handler = self._handlers.get(type(record).__name__)
            if handler is not None:
                self._cell.task(_told(handler, record), f"tell {type(record).__name__}")

    def peer_down(self, peer: str) -> None:
        """A caller died: nobody wants its answers."""
        for (sender, _, _), call in list(self._calls.items()):
            if sender == peer and call.task is not None:
                call.task.cancel()

    def _call(self, sender: str, port: str, op: wire.Call, frames: Sequence[Frame]) -> None:
        try:
            request = record_of(self._cell.codec, op.body, frames, sender)
        except WireError as error:
            self._fail(sender, port, op.id, error)
            return
        kind = type(request).__name__
        handler = self._handlers.get(kind)
        if handler is None:
            self._fail(
                sender,
                port,
                op.id,
                RealnetError(
                    f"{self._who} answers no {kind}.{nearest(kind, self._handlers)} "
                    f"It answers: {listed(self._handlers)}"
                ),
            )
            return
        call = _Call(op.credit)
        self._calls[sender, port, op.id] = call
        call.task = self._cell.task(
            self._answer(sender, port, op.id, call, handler, request), f"answer {kind}"
        )
        # Not in `_answer` itself: a task that is cancelled before its first step never enters it.
        call.task.add_done_callback(lambda _: self._calls.pop((sender, port, op.id), None))

    async def _answer(
        self,
        sender: str,
        port: str,
        id: int,
        call: _Call,
        handler: Callable[[Any], Any],
        request: Message,
    ) -> None:
        try:
            if isinstance(request, StreamRequest):
                items = cast("AsyncIterator[Message]", handler(request))
                try:
                    async for item in items:
                        while call.credit <= 0:
                            call.more.clear()
                            await call.more.wait()
                        call.credit -= 1
                        self._reply(sender, port, id, item, more=True)
                finally:
                    close = getattr(items, "aclose", None)
                    if close is not None:
                        await close()
                self._cell.post(sender, port, "", wire.Fail(id, "", "", end=True))
            else:
                self._reply(sender, port, id, await handler(request), more=False)
        except asyncio.CancelledError:
            self._cell.post(sender, port, "", wire.Fail(id, "Refused", "cancelled"))
        except RealnetError as error:  # an answer that says no; anything else is this actor's bug
            self._fail(sender, port, id, error)
        except Exception as error:
            self._fail(sender, port, id, error)
            raise

    def _reply(self, sender: str, port: str, id: int, reply: Message, more: bool) -> None:
        body, frames = Parcel(reply).body(self._cell.codec, self._cell.is_local(sender))
        self._cell.post(sender, port, "", wire.Reply(id, body, more), frames)

    def _fail(self, sender: str, port: str, id: int, error: Exception) -> None:
        kind = type(error).__name__ if isinstance(error, AskError) else "Refused"
        text = str(error) if isinstance(error, RealnetError) else f"{type(error).__name__}: {error}"
        self._cell.post(sender, port, "", wire.Fail(id, kind, f"{self._who}: {text}"))


async def _told(handler: Callable[[Any], Any], record: Message) -> None:
    await handler(record)
