"""The calling end of asks. The open calls themselves are in `calls.py`.

Knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar, cast

from realnet import wire
from realnet.callstream import stream
from realnet.errors import PeerDied
from realnet.live.base import LivePort, Switch
from realnet.message import Message, Request, StreamRequest
from realnet.opencall import Member
from realnet.parcel import Parcel
from realnet.ways import BULK, CONTROL, Take

R = TypeVar("R", bound=Message)
DEADLINE_S = 30.0
STREAM_DEADLINE_S = 120.0


class LiveAsk(LivePort):
    """The calling end of asks to a pool."""

    def __init__(self, switch: Switch, name: str, prefer_local: bool):
        super().__init__(switch, name)
        self._ask = switch.calls.ask
        self._prefer_local = prefer_local
        self._members: dict[str, Member] = {}
        self._chosen: list[Member] = []
        self.only: Member | None = None
        self._arrival = asyncio.Event()
        self.affinity = ""  # a field of the requests: equal ones go to one member
        self.deadline_s: float | None = None  # where a topology says so

    def __call__(
        self, request: Request[R], *, deadline_s: float | None = None, to: str | None = None
    ) -> Coroutine[Any, Any, R]:
        """Ask one member of the pool (or the one named `to`) and return its reply.

        `to` is "role/0", or an address with an incarnation for that life only. `deadline_s` is the
        time budget (default: the wire's, else 30 s); inside a handler it is at most what is left
        to the call that is being answered. Raises DeadlineExceeded, PeerDied,
        NoPeer, Overloaded or Refused. A request type with `safe = True` is sent to another member
        when the first one dies.
        """
        if deadline_s is None:
            budget_s = self.deadline_s or DEADLINE_S
        else:
            budget_s = self._budget(deadline_s, DEADLINE_S)
        return self._ask(self, request, budget_s, to)  # type: ignore[return-value]

    def tell(self, record: Message, *, to: str | None = None) -> None:
        """Send a record that wants no reply to every member, or to the one named `to`."""
        parcel = Parcel(record)
        for name in [to] if to else list(self._members):
            member = self._named(name)
            if member is not None:
                body, frames = parcel.body(self._switch.codec, member.local)
                member.way_for(frames).send(wire.Tell(body), frames)

    def stream(
        self, request: StreamRequest[R], *, deadline_s: float | None = None, to: str | None = None
    ) -> AsyncIterator[R]:
        """Ask one member (or the one named `to`) and iterate over the items of its answer. Close it
        to cancel.

        `deadline_s` is for the whole of it (default: the wire's, else 120 s).
        """
        budget_s = self._budget(deadline_s, STREAM_DEADLINE_S)
        items = stream(self._switch.calls, self, request, budget_s, to)
        return cast("AsyncIterator[R]", items)

    def choose(self, record: Message, to: str | None) -> Member | None:
        """Return the member to ask: the one named, else the one that was asked least."""
        if to is not None:
            member = self._named(to)
            if member is None:
                name, kind = to.partition("~")[0], type(record).__name__
                raise PeerDied(f"{name} is not up ({self._switch.address} asked for {kind})")
            return member
        chosen = self._chosen
        if self.only is not None or not chosen:
            return self.only
        if self.affinity:
            return _kept_together(chosen, str(getattr(record, self.affinity, "")))
        return min(chosen, key=_load)

    def _named(self, name: str) -> Member | None:
        """Return the member of this address, or the present life of "role/0"."""
        members = self._members
        return members.get(name) or next((m for m in members.values() if m.name == name), None)

    def _budget(self, deadline_s: float | None, default_s: float) -> float:
        if deadline_s is None:
            return self.deadline_s or default_s
        if not math.isfinite(deadline_s):
            raise ValueError(f"{self.name}: deadline_s = {deadline_s}: an ask ends some time")
        return deadline_s

    def peer_up(self, peer: str, port: str) -> None:
        super().peer_up(peer, port)
        switch = self._switch
        self._members[peer] = Member(
            peer,
            switch.way(peer, port, self.name, CONTROL),
            switch.way(peer, port, self.name, BULK),
        )
        self._choose()
        self._arrival.set()

    def peer_down(self, peer: str) -> None:
        super().peer_down(peer)
        member = self._members.pop(peer, None)
        self._choose()
        if not self.peers:
            self._arrival.clear()
        if member is not None:
            self._switch.calls.peer_down(member, self)

    def _choose(self) -> None:
        members = list(self._members.values())
        near = [m for m in members if self._switch.is_local(m.full)] if self._prefer_local else []
        self._chosen = near or members
        self.only = self._chosen[0] if len(self._chosen) == 1 else None

    async def somebody(self) -> None:
        """Wait until the pool has a member."""
        await self._arrival.wait()

    def taker(self, sender: str, sender_port: str) -> Take:
        return self._switch.calls.taker(sender)


def _load(member: Member) -> int:
    return member.load


def _kept_together(members: Sequence[Member], key: str) -> Member:
    """Return the member of highest weight for a key: most keys stay when members come and go."""

    def weight(member: Member) -> bytes:
        return hashlib.blake2b(f"{key} {member.name}".encode(), digest_size=8).digest()

    return max(members, key=weight)
