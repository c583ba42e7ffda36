"""The desk: where the head of a run receives guests.

It lets them in (`register.py` decides), tells everybody of their actors and wires, hears their
beats, and declares them dead when their process has ended, when they are silent for the suspicion
timeout, or when their key is taken back. Nobody restarts them.

Knows nothing of what guests do. An actor beside the head, on its node; made by `Head.prepare`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from realnet.actor import Actor, Clock, RunInfo
from realnet.address import parse_address
from realnet.config import Config
from realnet.control import (
    Observed,
    Peer,
    PeerChanged,
    PeerDown,
    StopActors,
    member_of,
)
from realnet.errors import AskError, ConfigError
from realnet.guest.nearby import when_gone
from realnet.guest.records import (
    DESK,
    Depart,
    Enter,
    Entered,
    Expelled,
    Given,
    GuestBeat,
    Ready,
    Remove,
    Serve,
    Wire,
)
from realnet.guest.register import Guest, Register
from realnet.liveness import Beats, Hung
from realnet.message import Message, Nothing
from realnet.node import Node
from realnet.observe.record import Record
from realnet.observe.status import SlotStatus, busy_shares
from realnet.ports import Ask, handles
from realnet.roster import Status, actor_statuses
from realnet.serving import caller
from realnet.topology.plan import Plan

ALIVE_S = 0.75  # who has beaten since is alive; beats come four times a second
FAREWELL_S = 0.5  # what a link is kept for after its guest was told to go
KEYS_S = 0.5


class Head(Protocol):
    """What the desk needs of the head."""

    node: Node
    plan: Plan
    record: Record
    clock: Clock
    run_info: RunInfo
    peers: dict[str, Peer]

    def say(self, text: str) -> None: ...
    def broadcast(self, record: Message, but: str = "") -> None: ...


class DeskConfig(Config):
    """How patient the desk is."""

    suspect_after_s: float = 3.0


class Desk(Actor[DeskConfig]):
    """Receives guests."""

    members = Ask(StopActors)

    def prepare(self, head: Head) -> None:
        """Hand in the head that the desk belongs to."""
        self.head = head
        self.register = Register(head.plan)
        self._members = head.node.cells[self.address.full].ports["members"]
        self._beats = Beats(self.config.suspect_after_s / 2, self.config.suspect_after_s)
        self._status: dict[str, Status] = {}
        self._watched: dict[str, Callable[[], None]] = {}
        self._keys_s = 0.0
        self._public: dict[str, str] = {}

    # ------------------------------------------------------------ coming in

    @handles
    async def enter(self, request: Enter) -> Entered:
        """A guest wants to come in."""
        slot, node, now_s = request.slot, self.head.node, self.clock.now()
        name = slot.partition("~")[0]
        if caller() != member_of(slot):
            self.head.say(f"refused what {caller()} said of {slot}")
            return Entered("it speaks for itself only")
        node.connect(Peer(slot, request.endpoint, (), guest=True))  # so that it hears the answer
        present = self.register.of_name(name)
        if present is not None:  # a former life that nobody has missed yet, or somebody else?
            await self.clock.sleep(ALIVE_S)
            last_s = self._status[present.peer.slot].beat_s or present.since_s
            if self.clock.now() - last_s >= ALIVE_S:
                self._gone(present.peer.slot, "it came again")
        try:
            guest = self.register.admit(slot, request.endpoint, request.pid, now_s)
        except ConfigError as error:
            self.head.say(f"refused the guest {name}: {error}")
            asyncio.get_running_loop().call_later(FAREWELL_S, node.peer_down, slot, "refused")
            return Entered(str(error))
        others = tuple(p for p in self.head.peers.values())
        self._status[slot] = Status()
        self._status[slot].pid = request.pid
        self._status[slot].beat_s = self.clock.now()
        self._beats.watch(slot, self.clock.now())
        gone = partial(self._gone, slot, "its process has ended")
        self._watched[slot] = when_gone(request.pid, request.place, gone)
        self.head.peers[slot] = guest.peer
        node.cells["head/0~0"].ports["members"].peer_up(member_of(slot), "")
        self._members.peer_up(member_of(slot), "")
        self._tell(guest)
        self.head.say(f"the guest {name} has come (pid {request.pid})")
        plan = msgspec.json.encode(self.head.plan).decode()
        return Entered(plan=plan, peers=others, public=self._public_keys())

    def _public_keys(self) -> dict[str, str]:
        """The public keys of the slots: a guest calls none whose key it does not know."""
        path = self.head.run_info.folder / "keys" / "public.json"
        if not self._public and self.head.plan.run.get("security") == "curve":
            self._public = json.loads(path.read_bytes())
        return self._public

    # ------------------------------------------------------------ what guests want

    @handles
    async def wire_actor(self, request: Wire) -> Given:
        """An actor of a guest gets wires."""
        return self._given(
            request.slot,
            lambda: (
                self.register.wire(request.slot, request.actor, request.ends, request.wires),
                request.actor,
            ),
        )

    @handles
    async def serve(self, request: Serve) -> Given:
        """A guest wants to host a member of a role."""
        return self._given(
            request.slot, lambda: self.register.serve(request.slot, request.role, request.ends)
        )

    @handles
    async def ready(self, request: Ready) -> Given:
        """An actor of a guest has started."""
        return self._given(
            request.slot, lambda: (self.register.ready(request.slot, request.actor), request.actor)
        )

    @handles
    async def remove(self, request: Remove) -> Given:
        """An actor of a guest has ended."""
        given = self._given(
            request.slot, lambda: (self.register.remove(request.slot, request.actor), "")
        )
        if not given.refused:
            self._status[request.slot].doing.pop(str(parse_address(request.actor)), None)
            if request.why:
                self.head.say(f"{request.actor.partition('~')[0]} has left: {request.why}")
        return given

    @handles
    async def depart(self, request: Depart) -> Nothing:
        """A guest leaves."""
        if caller() == member_of(request.slot) and request.slot in self.register.guests:
            self._gone(request.slot, "it left", farewell_s=FAREWELL_S)  # it hears the reply yet
        return Nothing()

    @handles
    async def beat(self, request: GuestBeat) -> Nothing:
        """A guest is alive."""
        status = self._status.get(request.slot)
        if status is None or caller() != member_of(request.slot):
            return Nothing()  # a late word of one that is gone
        now_s = self.clock.now()
        self._beats.beat(request.slot, now_s)
        own = self._own(request.slot)
        request = msgspec.structs.replace(
            request, doing=tuple(d for d in request.doing if d.actor in own)
        )
        status.beat(request, now_s)
        for doing in request.doing:
            spans = [(s.start_s, s.end_s, s.label) for s in doing.spans]
            self.head.record.busy.add(doing.actor, spans)
        return Nothing()

    @handles
    async def observed(self, record: Observed) -> None:
        """Rows of a guest's actors, for the files."""
        slot = next((s for s in self.register.guests if member_of(s) == caller()), "")
        own = self._own(slot) if slot else set()
        for row in record.rows:
            if row.actor in own:
                self.head.record.write(row.actor, row.kind, row.time_s, json.loads(row.row))
            else:
                self.head.say(f"refused what {caller()} said of {row.actor}")

    def _own(self, slot: str) -> set[str]:
        """The names of a guest's own actors."""
        actors = self.register.guests[slot].peer.actors
        return {str(parse_address(a)) for a in (*actors, member_of(slot))}

    def _given(self, slot: str, decide: Callable[[], tuple[Guest, str]]) -> Given:
        try:
            if caller() != member_of(slot):
                raise ConfigError(f"{caller()} may not speak for {slot}")
            guest, actor = decide()
        except ConfigError as error:
            self.head.say(f"refused the guest {slot.partition('~')[0]}: {error}")
            return Given(refused=str(error))
        self._tell(guest)
        return Given(actor=actor)

    def _tell(self, guest: Guest) -> None:
        self.head.peers[guest.peer.slot] = guest.peer
        self.head.node.peer_changed(guest.peer)
        self.head.broadcast(PeerChanged(guest.peer), but=guest.peer.slot)

    # ------------------------------------------------------------ going

    def tick(self, now_s: float, away_s: float = 0.0) -> None:
        """Time has passed; `away_s` of it the head itself stood still."""
        if away_s:
            self._beats.away(away_s, now_s)
        for effect in self._beats.tick(now_s):
            if isinstance(effect, Hung):
                self._gone(effect.name, f"silent for {effect.silent_s:.1f} s")
        if self.register.guests and now_s >= self._keys_s:
            self._keys_s = now_s + KEYS_S
            self._expel_revoked()

    def _expel_revoked(self) -> None:
        folder: Path = self.head.run_info.folder / "keys"
        if self.head.plan.run.get("security") != "curve":
            return
        from realnet.transport.grants import GUESTS, Granted

        granted = Granted(folder / GUESTS).slots()
        for slot, guest in list(self.register.guests.items()):
            if guest.name not in granted:
                why = f"the key of {guest.name.partition('/')[0]} was revoked"
                self.members.tell(Expelled(why), to=member_of(slot))
                self._gone(slot, why, farewell_s=FAREWELL_S)

    def link_broken(self, slot: str, text: str) -> None:
        """A link to a guest has a hole: it must come again, as another life."""
        if slot in self.register.guests:
            self.members.tell(Expelled(text), to=member_of(slot))
            self._gone(slot, text, farewell_s=FAREWELL_S)

    def _gone(self, slot: str, why: str, farewell_s: float = 0.0) -> None:
        """A guest is no more: everybody forgets it."""
        guest = self.register.depart(slot)
        if guest is None:
            return
        self._beats.forget(slot)
        self._status.pop(slot, None)
        self._watched.pop(slot, lambda: None)()
        self.head.peers.pop(slot, None)
        self.head.say(f"the guest {guest.name.partition('/')[0]} is gone: {why}")
        self.head.broadcast(PeerDown(slot, why))
        if farewell_s:
            asyncio.get_running_loop().call_later(farewell_s, self._forget, slot, why)
        else:
            self._forget(slot, why)

    def _forget(self, slot: str, why: str) -> None:
        self.head.node.cells["head/0~0"].ports["members"].peer_down(member_of(slot))
        self._members.peer_down(member_of(slot))
        self.head.node.peer_down(slot, why)

    # ------------------------------------------------------------ for the head

    async def stop_role(self, role: str, deadline_s: float) -> None:
        """The run ends: drain and stop the members of a role that guests host."""
        hosts = [g for g in self.register.guests.values() if role in g.served.values()]
        for guest in hosts:
            left_s = max(0.1, deadline_s - self.clock.now())
            to = member_of(guest.peer.slot)
            try:
                await self.members(StopActors(role, graceful=True), deadline_s=left_s, to=to)
            except AskError as error:
                self.head.say(f"{role} at the guest {guest.name} did not stop in order: {error}")

    async def close(self) -> None:
        """The run is over: watch nobody. (The end of a run tells guests as it tells all.)"""
        self.register.guests.clear()
        while self._watched:
            self._watched.popitem()[1]()
        await self.head.node.cells[self.address.full].end(graceful=False)

    def statuses(self, now_s: float) -> dict[str, SlotStatus]:
        """The guests as views show them."""
        shares = busy_shares(self.head.record.busy.spans, now_s)
        found = {}
        for slot, guest in self.register.guests.items():
            status = self._status[slot]
            actors = actor_statuses(status, shares)
            silent_s = now_s - (status.beat_s or now_s)
            found[guest.name] = SlotStatus(
                *("guest", status.pid, 0, "", actors, silent_s, now_s - guest.since_s)
            )
        return found


def make_desk(head: Head, suspect_after_s: float) -> Desk:
    """Put the desk into the head's node."""
    cell = head.node.add(Desk, parse_address(DESK), DeskConfig(suspect_after_s=suspect_after_s))
    desk = cell.actor
    assert isinstance(desk, Desk)
    desk.prepare(head)
    return desk
