"""The sending end of share wires at work: records to items, waits for room, asides to the sender.

`delivery.py` decides; this carries out. Knows nothing of sockets. Made by `cell.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from realnet import wire
from realnet.affinity import End
from realnet.codec import Frame
from realnet.delivery import Done, Producer, Send
from realnet.errors import ConfigError, Stopping
from realnet.live.base import Switch
from realnet.live.delivery import Delivery
from realnet.live.share import SharePort
from realnet.message import Message
from realnet.parcel import Parcel
from realnet.weight import weigh

M = TypeVar("M", bound=Message)


class _Sending:
    __slots__ = ("cause", "handed", "key", "parcel", "size")

    def __init__(self, parcel: Parcel, key: str, size: int, cause: Delivery[Any] | None):
        self.parcel = parcel
        self.key = key
        self.size = size
        self.cause = cause
        self.handed: asyncio.Future[None] | None = None


class LiveOutlet(SharePort, Generic[M]):
    """The sending end of a share wire. `affinity_field` names what relates items, if there is."""

    def __init__(self, switch: Switch, name: str):
        super().__init__(switch, name)
        self.affinity_field = ""
        self._producer = Producer()
        self._sending: dict[int, _Sending] = {}
        self._next = 0
        self._who = str(switch.address)
        self._wait: tuple[str, tuple[str, ...]] | None = None  # what to wait for, on whom
        self._key_prefix = f"{switch.address.full}:"
        self._aside_hook: Callable[[M, str], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many items nobody has taken yet."""
        return self._producer.waiting

    @property
    def leased(self) -> int:
        """How many items somebody has taken and not finished."""
        return self._producer.leased

    @property
    def held(self) -> int:
        """How many items somebody has taken and not finished."""
        return self.leased

    def on_set_aside(self, hook: Callable[[M, str], None]) -> None:
        """Call `hook(record, reason)` when an item that nothing caused is set aside."""
        self._aside_hook = hook

    async def send(
        self,
        record: M,
        *,
        key: str = "",
        caused_by: Delivery[Any] | None = None,
        affinity: str = "",
    ) -> None:
        """Give one item to the pool; returns when a consumer has been handed it.

        `key` names the item for dedupe across redelivery (default: unique to this sender). With
        `caused_by` the inbound item is not finished before this one is. Items of one `affinity`
        go to the same member of the pool while it lives, and wait for its room while others pass
        (default: the field that the wire names, if it does).
        """
        self._fit(record)
        self._next += 1
        self.done = item = self._next
        if not affinity and self.affinity_field:
            affinity = str(getattr(record, self.affinity_field))
        size = weigh(record)
        key = key or self._key_prefix + str(item)
        sending = self._sending[item] = _Sending(Parcel(record), key, size, caused_by)
        if caused_by is not None:
            caused_by.caused()
        self._ship(self._producer.offer(item, size, affinity))
        self._soon(self._tell_backlog)
        if sending.handed is None and self._producer.waits(item):
            await self._handed(item, sending)

    async def _handed(self, item: int, sending: _Sending) -> None:
        sending.handed = asyncio.get_running_loop().create_future()
        try:
            with self._switch.waits.on(self._who, *(self._wait or self._name_wait())):
                await sending.handed
        except asyncio.CancelledError:
            if self._producer.withdraw(item):
                self._sending.pop(item)
                self._soon(self._tell_backlog)
                if sending.cause is not None:
                    sending.cause.settled()
            raise

    def _name_wait(self) -> tuple[str, tuple[str, ...]]:
        takers = tuple(sorted(p.partition("~")[0] for p in self.peers))
        where = f"room for {self.name} at {', '.join(takers)}"
        if not takers:
            where = f"a taker of {self.name} (none is up)"
        self._wait = where, takers
        return self._wait

    # ------------------------------------------------------------ peers

    def wired(self, role: str, port: str, reserve: int, affinity: str) -> None:
        if affinity and self.affinity_field not in ("", affinity):
            raise ConfigError(
                f"{self._switch.address.role}.{self.name} is wired with affinity = "
                f'"{self.affinity_field}" and with affinity = "{affinity}": it can have one'
            )
        self.affinity_field = affinity or self.affinity_field

    def _end_up(self, end: End) -> None:
        self._wait = None
        self._producer.consumer_up(end)
        self._soon(self._tell_backlog)

    def _end_down(self, end: End) -> None:
        self._wait = None
        self._ship(self._producer.consumer_down(end))
        self._soon(self._tell_backlog)

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        end = sender, sender_port
        if isinstance(op, wire.Ack):
            self._done(self._producer.ack(end, op.ids, op.aside))
        elif isinstance(op, wire.Grant):
            self._ship(self._producer.grant(end, op.count, op.num_bytes, op.lease_s))
            self._soon(self._tell_backlog)
        elif isinstance(op, wire.Working):
            self._producer.renew(end, op.idle)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for sending in self._sending.values():
            if sending.handed is not None and not sending.handed.done():
                sending.handed.set_exception(Stopping(f"{self.name} is closed"))

    # ------------------------------------------------------------ effects

    def _ship(self, sends: Sequence[Send]) -> None:
        for end, item, attempt, spent in sends:
            sending = self._sending[item]
            body, frames = sending.parcel.body(self._switch.codec, self._switch.is_local(end[0]))
            op = wire.Item(item, sending.key, attempt, body, sending.size, spent)
            self._send(end, op, frames)
            if sending.handed is not None and not sending.handed.done():
                sending.handed.set_result(None)

    def _done(self, effects: Sequence[Done]) -> None:
        for item, aside in effects:
            sending = self._sending.pop(item)
            if sending.handed is not None and not sending.handed.done():
                sending.handed.set_result(None)
            if sending.cause is not None:
                sending.cause.settled(aside)
            elif aside is not None and self._aside_hook is not None:
                self._aside_hook(cast(M, sending.parcel.record), aside)

    def _tell_backlog(self) -> None:
        self._is_later = False
        for end, *counts in self._producer.announce():
            self._send(end, wire.Backlog(*counts))
        if self._timer is None and not self._closed:
            self._arm()

    # ------------------------------------------------------------ leases

    def _arm(self) -> None:
        tick_s = self._producer.tick_s
        if tick_s:
            self._timer = asyncio.get_running_loop().call_later(tick_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        sends = self._producer.tick(asyncio.get_running_loop().time())
        self._ship(sends)
        self._soon(self._tell_backlog)
