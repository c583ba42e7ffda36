"""The receiving end of share wires at work: items to handlers, acks and grants once a turn.

`custody.py` decides; this carries out. Handlers run in tasks that the actor's cell owns. Knows
nothing of sockets. Made by `cell.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

from realnet import wire
from realnet.affinity import End
from realnet.codec import Frame
from realnet.custody import AckTo, Consumer
from realnet.delivery import TICKS
from realnet.errors import ConfigError, NoPeer, Overloaded, PeerDied, RealnetError, WireError
from realnet.live.base import Switch
from realnet.live.delivery import Delivery
from realnet.live.share import SharePort
from realnet.message import Message
from realnet.parcel import record_of
from realnet.ports import Bounds

M = TypeVar("M", bound=Message)
TRIES, PAUSE_S, MAX_PAUSE_S = 8, 0.05, 2.0  # of a handler whose callee is not there: 5 s in all


class LiveInlet(SharePort, Generic[M]):
    """The receiving end of share wires."""

    def __init__(
        self, switch: Switch, name: str, bounds: Bounds, handler: Callable[[Delivery[M]], Any]
    ):
        super().__init__(switch, name)
        self._consumer = Consumer(bounds.window, bounds.window_bytes)
        self._lease_s = bounds.lease_s
        self._handler = handler
        self._feedback: dict[End, int] = {}  # (role, port) -> places of the window for it alone
        self._deliveries: dict[str, Delivery[M]] = {}
        self._acks: dict[tuple[End, str | None], list[int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._mark = -1

    @property
    def in_hand(self) -> int:
        """How many items are in custody here."""
        return self._consumer.in_hand

    @property
    def held(self) -> int:
        """How many items are in custody here."""
        return self.in_hand

    @property
    def in_hand_bytes(self) -> int:
        """How many bytes the items in custody here hold together."""
        return self._consumer.in_hand_bytes

    # ------------------------------------------------------------ peers

    def wired(self, role: str, port: str, reserve: int, affinity: str) -> None:
        if reserve and (role, port) not in self._feedback:
            self._feedback[role, port] = reserve
            self._consumer.reserve = sum(self._feedback.values())
        if self._consumer.reserve >= self._consumer.window:
            raise ConfigError(
                f"{self._switch.address.role}.{self.name} has a window of "
                f"{self._consumer.window}, of which feedback reserves {self._consumer.reserve}: "
                "nothing new could come in. Make the window larger or the reserve smaller."
            )

    def _end_up(self, end: End) -> None:
        feedback = (end[0].partition("/")[0], end[1]) in self._feedback
        self._consumer.producer_up(end, feedback=feedback)
        if self._lease_s > 0:
            self._send(end, wire.Grant(0, 0, self._lease_s))

    def _end_down(self, end: End) -> None:
        self._consumer.producer_down(end)
        self._soon(self._turn)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._send_acks()

    # ------------------------------------------------------------ items

    def receive(
        self, sender: str, sender_port: str, op: wire.AnyOp, frames: Sequence[Frame]
    ) -> None:
        end = sender, sender_port
        if isinstance(op, wire.Item):
            accepted = self._consumer.item(end, op.id, op.key, op.size, op.spent)
            if accepted.fresh:
                try:
                    body = cast(M, record_of(self._switch.codec, op.body, frames, sender))
                    self._fit(body, sender)
                except WireError as error:  # both ends hear of it, and the room is free again
                    self._finish(op.key, str(error))
                    raise
                delivery = Delivery(body, op.key, op.attempt, partial(self._finish, op.key))
                self._deliveries[op.key] = delivery
                self._switch.task(self._handle(delivery), self.name)
                if self._timer is None and self._lease_s > 0:
                    self._arm()
            elif accepted.acks:
                self._keep_acks(accepted.acks)
        elif isinstance(op, wire.Backlog):
            self._consumer.backlog(
                end, op.waiting, op.unused, op.num_bytes, op.unused_bytes, op.need
            )
            self._soon(self._turn)

    async def _handle(self, delivery: Delivery[M]) -> None:
        try:
            await self._tried(delivery)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RealnetError(  # nobody cancelled it: in silence its item would stay for ever
                f"the handler of {self.name} {delivery.key} was cancelled by what it waited for"
            ) from None
        delivery.handled()

    async def _tried(self, delivery: Delivery[M]) -> None:
        """Call the handler; again, a few times, when whom it asked is not there.

        The death of somebody else is no failure of this actor: it is back before long, or its
        pool has others. What the handler sent before may be sent twice: its key tells.
        """
        for again in range(TRIES - 1):
            try:
                await self._handler(delivery)
                return
            except (PeerDied, NoPeer, Overloaded) as error:
                who, text = str(self._switch.address), f"another try of {self.name}: {error}"
                with self._switch.waits.on(who, text):
                    await asyncio.sleep(min(MAX_PAUSE_S, PAUSE_S * 2**again))
        await self._handler(delivery)

    def _finish(self, key: str, aside: str | None) -> None:
        self.done += 1
        self._deliveries.pop(key, None)
        self._keep_acks(self._consumer.finish(key, aside))

    # ------------------------------------------------------------ once a turn

    def _keep_acks(self, acks: Sequence[AckTo]) -> None:
        for ack in acks:
            self._acks.setdefault((ack.producer, ack.aside), []).append(ack.item)
        self._soon(self._turn)

    def _turn(self) -> None:
        self._is_later = False
        self._send_acks()
        for grant in self._consumer.grants():
            self._send(grant.producer, wire.Grant(grant.room, grant.num_bytes, self._lease_s))

    def _send_acks(self) -> None:
        if self._acks:
            acks, self._acks = self._acks, {}
            for (producer, aside), items in acks.items():
                self._send(producer, wire.Ack(tuple(items), aside))

    # ------------------------------------------------------------ leases

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._lease_s / TICKS, self._tell_progress)

    def _tell_progress(self) -> None:
        """Renew the leases of what moved; the actor's own progress counts for all it has."""
        self._timer = None
        idle = [key for key, delivery in self._deliveries.items() if delivery.take_idle()]
        mark, self._mark = self._mark, self._switch.progress_mark()
        if mark != self._mark:
            idle = []
        for working in self._consumer.working(frozenset(idle)):
            self._send(working.producer, wire.Working(working.idle))
        if self._consumer.in_hand:
            self._arm()
