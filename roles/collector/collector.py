"""Takes the place of prompter, driver and rewarder where episodes come from somebody's service.

    Collect (episodes, rewards)  ->  room, a ticket  ->  scored, closed  ->  the journal  ->  reply

A reply says that the trainer has the episodes on its disk. It waits for room: who asks faster than
the trainer learns is held back, up to the request's deadline. The same key twice is one ticket.

A ticket number that an earlier life took and did not use gets other episodes: the trainer tells
them apart by the parent, which is the key.

Waits for: room (the trainer's reply), the trainer's journal. Knows nothing of models or text.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Annotated

from realnet import Actor, Ask, Config, Delivery, Outlet, StateIn, doc, handles
from realnet.errors import RealnetError
from realnet.roles.messages import (
    Collect,
    Collected,
    GroupClosed,
    PolicyStatus,
    Rollout,
    SampleKey,
    Scored,
    TakeSlots,
    TicketKey,
)
from realnet.roles.slots import SlotAsker
from realnet.roles.tables import Policy


class CollectorConfig(Config):
    """`[roles.collector]`."""

    waiting: Annotated[int, doc("groups that may wait for room; more are refused", ge=1)] = 256
    remembered: Annotated[int, doc("keys that are known again when they come twice", ge=1)] = 10_000
    wait_s: Annotated[float, doc("seconds that one request for tickets may wait", gt=0)] = 20.0


class Collector(Actor[CollectorConfig]):
    """Has episodes from outside trained on. See the module."""

    shared = (Policy,)
    scored = Outlet(Scored)
    closed = Outlet(GroupClosed, joined_by="policy")
    trainer = Ask(TakeSlots, joined_by="policy")
    status = StateIn(PolicyStatus, joined_by="policy")

    async def start(self) -> None:
        """Know nothing yet."""
        self._known: OrderedDict[str, asyncio.Future[Collected]] = OrderedDict()
        self._wanting: deque[asyncio.Future[int]] = deque()  # for a ticket each
        self._wanted = asyncio.Event()
        self._used: set[int] = set()  # numbers that this life has given out

    @handles
    async def collect(self, request: Collect) -> Collected:
        """Have one group trained on; reply when it is durable."""
        if not request.episodes or not request.key:
            raise RealnetError("a group needs a key of its own and at least one episode")
        known = self._known.get(request.key)
        if known is None:
            if len(self._wanting) >= self.config.waiting:
                raise RealnetError(
                    f"{len(self._wanting)} groups wait for room already ([roles.collector] "
                    "waiting): the trainer takes them as it learns; send fewer, or later"
                )
            known = self._known[request.key] = asyncio.get_running_loop().create_future()
            self.spawn(self._keep(request, known), name=f"collect {request.key}")
            while len(self._known) > self.config.remembered:
                self._known.popitem(last=False)
        return await asyncio.shield(known)

    async def _keep(self, request: Collect, reply: asyncio.Future[Collected]) -> None:
        """Get a ticket, send the group, and tell when it is on the trainer's disk."""
        number = await self._ticket()
        key = TicketKey(self._name, number, request.key)

        def finish(reason: str | None) -> None:
            if reply.done():
                return
            if reason is None:
                reply.set_result(Collected(key))
            else:
                self._known.pop(request.key, None)
                reply.set_exception(RealnetError(f"{key} was set aside: {reason}"))
                reply.exception()  # whoever asked may have gone

        root: Delivery[Collect] = Delivery(request, request.key, 1, finish)
        for sample, episode in enumerate(request.episodes):
            rollout = Rollout(
                key=SampleKey(key, sample),
                task=request.task,
                prompt=request.prompt,
                text=episode.text,
                answer="",
                segments=episode.segments,
                stop=episode.stop,
                episode=request.key,
            )
            scored = Scored(rollout, episode.reward, {"given": episode.reward})
            await self.scored.send(scored, caused_by=root, key=str(rollout.key))
        closed = GroupClosed(key, len(request.episodes))
        await self.closed.send(closed, caused_by=root, key=str(key))
        root.handled()

    async def _ticket(self) -> int:
        wish: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._wanting.append(wish)
        self._wanted.set()
        async with self.waiting("room for episodes"):
            return await wish

    async def run(self) -> None:
        """Take tickets for those who wait."""
        status = await self.status.get()
        self._name = status.version.policy
        asker = SlotAsker(self, self.trainer, self.config.wait_s)
        while True:
            begins = asker.anew and not self._used  # what a life before had is given back
            if not self._wanting and not begins:
                self._wanted.clear()
                async with self.waiting("episodes"):
                    await self._wanted.wait()
            slots = await asker.take(self._name, len(self._wanting))
            for start, end in slots.intervals if slots is not None else ():
                for number in range(start, end):
                    if number not in self._used:
                        self._give(number)

    def _give(self, number: int) -> None:
        """Give a ticket to who waits longest; a trainer asks again for what nobody took."""
        if self._wanting:
            self._used.add(number)
            self._wanting.popleft().set_result(number)
