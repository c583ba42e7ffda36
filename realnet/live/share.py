"""The ends of share wires: items in custody, grants, acks. `delivery.py` decides; this carries out.

Knows nothing of sockets. Handlers run in tasks that the actor's cell owns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from realnet import wire
from realnet.codec import Frame
from realnet.delivery import AckTo, Consumer, Done, GrantTo, Producer, Send
from realnet.errors import RealnetError, Stopping
from realnet.live.base import LivePort, Switch
from realnet.message import Message
from realnet.parcel import Parcel, record_of

M = TypeVar("M", bound=Message)


class Delivery(Generic[M]):
    """One item in custody: a record, and the duty to finish it.

    It is finished when its handler has returned and everything sent with `caused_by=` it is
    finished too; or at once by `set_aside`.
    """

    def __init__(self, body: M, key: str, attempt: int, finish: Callable[[str | None], None]):
        self.body = body
        self.key = key
        self.attempt = attempt
        self._finish = finish
        self._open = 1  # the handler itself
        self._aside: str | None = None
        self._finished = False

    def set_aside(self, reason: str) -> None:
        """End this item without result; the reason goes up the chain to its first sender."""
        self._aside = reason

    def caused(self) -> None:
        """One more thing hangs on this item."""
        self._open += 1

    def settled(self, aside: str | None = None) -> None:
        """One thing that hung on this item is finished."""
        self._open -= 1
        if aside is not None and self._aside is None:
            self._aside = aside
        if self._open == 0 and not self._finished:
            self._finished = True
            self._finish(self._aside)


class LiveInlet(LivePort, Generic[M]):
    """The receiving end of share wires."""

    def __init__(
        self, switch: Switch, name: str, window: int, handler: Callable[[Delivery[M]], Any]
    ):
        super().__init__(switch, name)
        self._consumer = Consumer(window)
        self._handler = handler

    @property
    def in_hand(self) -> int:
        """How many items are in custody here."""
        return self._consumer.in_hand

    def peer_up(self, peer: str, port: str) -> None:
        super().peer_up(peer, port)
        self._consumer.producer_up(peer)

    def peer_down(self, peer: str) -> None:
        super().peer_down(peer)
        self._apply(self._consumer.producer_down(peer))

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        if sender not in self.peers:
            return  # late word of a dead incarnation: whoever follows it will send again
        if isinstance(op, wire.Backlog):
            self._apply(self._consumer.backlog(sender, op.waiting, op.unused))
        elif isinstance(op, wire.Item):
            accepted = self._consumer.item(sender, op.id, op.key)
            self._apply(accepted.effects)
            if accepted.fresh:
                body = cast(M, record_of(self._switch.codec, op.body, frames, sender))
                key = op.key
                delivery = Delivery(body, key, op.attempt, lambda aside: self._finish(key, aside))
                self._switch.task(self._handle(delivery), f"{self.name} {key}")

    async def _handle(self, delivery: Delivery[M]) -> None:
        try:
            await self._handler(delivery)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RealnetError(  # nobody cancelled it: in silence its item would stay for ever
                f"the handler of {self.name} {delivery.key} was cancelled by what it waited for"
            ) from None
        delivery.settled()

    def _finish(self, key: str, aside: str | None) -> None:
        self._apply(self._consumer.finish(key, aside))

    def _apply(self, effects: Sequence[GrantTo | AckTo]) -> None:
        for effect in effects:
            if isinstance(effect, GrantTo):
                self._post(effect.producer, wire.Grant(effect.room))
            else:
                self._post(effect.producer, wire.Ack((effect.item,), effect.aside))


class _Sending:
    def __init__(self, parcel: Parcel, key: str, cause: Delivery[Any] | None):
        self.parcel = parcel
        self.key = key
        self.cause = cause
        self.handed: asyncio.Future[None] | None = None


class LiveOutlet(LivePort, Generic[M]):
    """The sending end of a share wire."""

    def __init__(self, switch: Switch, name: str):
        super().__init__(switch, name)
        self._producer = Producer()
        self._sending: dict[int, _Sending] = {}
        self._next = 0
        self._told_later = False
        self._aside_hook: Callable[[M, str], None] | None = None

    @property
    def waiting(self) -> int:
        """How many items nobody has taken yet."""
        return self._producer.waiting

    @property
    def leased(self) -> int:
        """How many items somebody has taken and not finished."""
        return self._producer.leased

    def on_set_aside(self, hook: Callable[[M, str], None]) -> None:
        """Call `hook(record, reason)` when an item that nothing caused is set aside."""
        self._aside_hook = hook

    async def send(
        self, record: M, *, key: str = "", caused_by: Delivery[Any] | None = None
    ) -> None:
        """Give one item to the pool; returns when a consumer has been handed it.

        `key` names the item for dedupe across redelivery (default: unique to this sender). With
        `caused_by` the inbound item is not finished before this one is.
        """
        self._next += 1
        item = self._next
        sending = _Sending(Parcel(record), key or f"{self._switch.address.full}:{item}", caused_by)
        self._sending[item] = sending
        if caused_by is not None:
            caused_by.caused()
        self._ship(self._producer.offer(item))
        self._tell_backlog()
        if self._producer.waiting and item in self._sending:
            sending.handed = asyncio.get_running_loop().create_future()
            try:
                takers = tuple(sorted(p.partition("~")[0] for p in self.peers))
                with self._switch.waits.on(str(self._switch.address), self._wait_text(), takers):
                    await sending.handed
            except asyncio.CancelledError:
                if self._producer.withdraw(item):
                    self._sending.pop(item)
                    if caused_by is not None:
                        caused_by.settled()
                raise

    def _wait_text(self) -> str:
        if not self.peers:
            return f"a taker of {self.name} (none is up)"
        takers = ", ".join(sorted(p.partition("~")[0] for p in self.peers))
        return f"room for {self.name} at {takers}"

    def peer_up(self, peer: str, port: str) -> None:
        super().peer_up(peer, port)
        self._producer.consumer_up(peer)
        self._tell_backlog()

    def peer_down(self, peer: str) -> None:
        super().peer_down(peer)
        self._ship(self._producer.consumer_down(peer))
        self._tell_backlog()

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        if isinstance(op, wire.Grant):
            self._ship(self._producer.grant(sender, op.count))
            self._tell_backlog()
        elif isinstance(op, wire.Ack):
            for item in op.ids:
                self._done(self._producer.ack(sender, item, op.aside))

    def close(self) -> None:
        for sending in self._sending.values():
            if sending.handed is not None and not sending.handed.done():
                sending.handed.set_exception(Stopping(f"{self.name} is closed"))

    def _ship(self, effects: Sequence[Send]) -> None:
        for effect in effects:
            sending = self._sending[effect.item]
            local = self._switch.is_local(effect.consumer)
            body, frames = sending.parcel.body(self._switch.codec, local)
            self._post(
                effect.consumer, wire.Item(effect.item, sending.key, effect.attempt, body), frames
            )
            if sending.handed is not None and not sending.handed.done():
                sending.handed.set_result(None)

    def _done(self, effects: Sequence[Done]) -> None:
        for effect in effects:
            sending = self._sending.pop(effect.item)
            if sending.cause is not None:
                sending.cause.settled(effect.aside)
            elif effect.aside is not None and self._aside_hook is not None:
                self._aside_hook(cast(M, sending.parcel.record), effect.aside)

    def _tell_backlog(self) -> None:
        if not self._told_later:  # once a turn, however many items were offered in it
            self._told_later = True
            self._switch.later(self._tell_backlog_now)

    def _tell_backlog_now(self) -> None:
        self._told_later = False
        for effect in self._producer.announce():
            self._post(effect.consumer, wire.Backlog(effect.waiting, effect.unused))
