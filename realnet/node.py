"""A node: the actors of one process, and the links to other processes.

It routes operations between local cells and links, and keeps for later what comes from a peer that
it has not been told of yet. It hears of peers (joined, up, down) from its member actor or head,
which owns it. `links.py` carries what goes to other processes.

Knows nothing of how processes are started, of topologies' text, or of sockets beyond `Transport`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from realnet import wire
from realnet.actor import Actor, Clock, RunInfo
from realnet.address import Address, parse_address
from realnet.cell import Cell
from realnet.codec import Codec, Frame
from realnet.config import Config, Shared
from realnet.control import HEAD_SLOT, Observation, Peer, member_of
from realnet.deadlines import Deadlines
from realnet.errors import WireError
from realnet.links import Links
from realnet.strangers import Strangers
from realnet.topology.plan import WirePlan
from realnet.transport import Transport
from realnet.waits import Waits
from realnet.watching import Watching
from realnet.ways import CopyWay, LocalWay, Take, Way

MAX_EARLY = 20_000
TOLD_AGAIN_S = 60.0
MAX_TOLD = 1000
_NEEDS_UP = wire.ShareOp | wire.Value


class Owner(Protocol):
    """Whoever owns a node: its member actor, or the head."""

    def actor_failed(self, address: Address, error: BaseException) -> None: ...
    def actor_finished(self, address: Address, text: str) -> None: ...
    def link_broken(self, slot: str, text: str) -> None: ...
    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str: ...


class _Entry:
    """Where a route from another process ends. `take` looks twice until all about it is known."""

    __slots__ = ("_node", "route", "slot", "take")

    def __init__(self, node: Node, slot: str, route: wire.Route):
        self._node = node
        self.slot = slot
        self.route = route
        self.take: Take = self._consider

    def _consider(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        self._node.consider(self, op, frames)


class Node:
    """One process's share of a run."""

    def __init__(
        self,
        slot: str,
        transport: Transport,
        run_info: RunInfo,
        wires: Sequence[WirePlan] = (),
        *,
        now: Callable[[], float] = time.monotonic,
        force_codec: bool = False,
    ):
        self.slot = slot
        self.transport = transport
        self.run_info = run_info
        self.codec = Codec(inline_bytes=transport.inline_bytes)
        self.clock = Clock(now)
        self.waits = Waits(now)
        self.watching = Watching(self.waits)
        self.deadlines = Deadlines(now)
        self.cells: dict[str, Cell] = {}
        self.owner: Owner | None = None
        self.observations: deque[Observation] = deque(maxlen=50_000)
        self.num_dropped_rows = 0
        self.on_wire_error: Callable[[WireError], None] | None = None
        self._force_codec = force_codec
        self.wires = list(wires)
        self._guest_wires: dict[str, tuple[WirePlan, ...]] = {}
        self._peers: dict[str, Peer] = {}
        self._up: set[str] = set()
        self._told_up: set[str] = set()  # before it was told who they are
        self._dead: set[str] = set()
        self._slot_of: dict[str, str] = {}
        self._early: dict[str, deque[tuple[_Entry, wire.AnyOp, Sequence[Frame]]]] = {}
        self._strangers = Strangers()
        self._looking = False
        self._told: dict[str, float] = {}
        self.closed = False
        run = f"{run_info.name} (attempt {run_info.attempt})"
        self._links = Links(slot, run, self.codec, transport, now, self)

    def listen(self) -> None:
        """Start to receive."""
        self.transport.listen(self._links.receive)

    # ------------------------------------------------------------ cells

    def add(
        self,
        actor_class: type[Actor[Any]],
        address: Address,
        config: Config,
        shared: dict[type[Shared], Any] | None = None,
        policy: str = "",
        num_ranks: int = 1,
    ) -> Cell:
        """Put an actor into this process. `num_ranks`: of the gang it is in."""
        cell = Cell(self, actor_class, address, config, shared or {}, policy, num_ranks)
        self.cells[address.full] = cell
        self._tell_wires(cell)
        self._slot_of[address.full] = self.slot
        self.watching.up([address.full])
        for peer in self._peers.values():
            if peer.slot in self._up:
                self._wire(peer, only=cell)
        return cell

    def _tell_wires(self, cell: Cell) -> None:
        mine = cell.address.role
        for w in self.wires:
            if w.from_role == mine and w.from_port in cell.ports:
                cell.ports[w.from_port].wired(w.to_role, w.to_port, w.feedback, w.affinity)
            if w.to_role == mine and w.to_port in cell.ports:
                cell.ports[w.to_port].wired(w.from_role, w.from_port, w.feedback, w.affinity)

    def remove(self, cell: Cell) -> None:
        """Take an actor out of this process."""
        self.cells.pop(cell.address.full, None)
        self.watching.down([cell.address.full], "it was taken out of its process")
        self._slot_of.pop(cell.address.full, None)

    def is_local(self, peer: str) -> bool:
        """Tell whether a peer's records need no codec."""
        return peer in self.cells and not self._force_codec

    # ------------------------------------------------------------ peers

    def connect(self, peer: Peer) -> None:
        """A process can be reached; its actors may call and be called."""
        if peer.slot in self._peers or peer.slot == self.slot or peer.slot in self._dead:
            return
        self._peers[peer.slot] = peer
        self._strangers.met(peer.slot)
        if peer.wires:
            self._guest_wires[peer.slot] = peer.wires
        for actor in (*peer.actors, member_of(peer.slot), peer.slot):
            self._slot_of[actor] = peer.slot
        self.watching.up(peer.actors)
        self._links.open(peer.slot, peer.endpoint)
        self._replay(peer.slot)
        if peer.slot in self._told_up:
            self._told_up.discard(peer.slot)
            self.peer_up(peer.slot)

    def peer_up(self, slot: str) -> None:
        """The actors of a process are up: tell the ports that are wired to them."""
        peer = self._peers.get(slot)
        if peer is None and slot not in self._dead and slot != self.slot:
            self._told_up.add(slot)  # the list with it is still under way
        if peer is not None and slot not in self._up:
            self._up.add(slot)
            self._wire(peer)
            self._replay(slot)

    def peer_changed(self, peer: Peer) -> None:
        """A guest has come, or has other actors or wires than before."""
        slot = peer.slot
        if slot in self._dead or slot == self.slot:
            return
        known = self._peers.get(slot)
        if known is None:
            self.connect(peer)
            self.peer_up(slot)
            return
        self._lose([a for a in known.actors if a not in peer.actors], "it was taken out")
        self._peers[slot] = peer
        self._guest_wires[slot] = peer.wires
        for actor in peer.actors:
            self._slot_of[actor] = slot
        self.watching.up(peer.actors)
        was_up = set(known.actors) - set(known.coming)
        fresh = [a for a in peer.actors if a not in was_up and a not in peer.coming]
        self._wire(Peer(slot, "", tuple(fresh)))
        wires = [w for w in peer.wires if w not in known.wires]
        self._wire(Peer(slot, "", tuple(was_up & set(peer.actors))), wires=wires)
        self._replay(slot)

    def learn(self, wires: Sequence[WirePlan]) -> None:
        """There are more wires than were known; whoever is up already is wired by them."""
        self.wires.extend(wires)
        for peer in self._peers.values():
            if peer.slot in self._up:
                self._wire(peer, wires=wires)

    def local_up(self, addresses: Sequence[str]) -> None:
        """The actors of this process are up: wire them to each other."""
        self._wire(Peer(self.slot, "", tuple(addresses)))

    def peer_down(self, slot: str, why: str = "") -> None:
        """An incarnation is dead: its ports, open calls and links go; whoever watches is told."""
        self._dead.add(slot)
        self._strangers.met(slot)
        self._told_up.discard(slot)
        self._early.pop(slot, None)
        self._links.close(slot)
        peer = self._peers.pop(slot, None)
        if peer is None:
            return
        self._up.discard(slot)
        self._guest_wires.pop(slot, None)
        self._lose((*peer.actors, member_of(slot)), why or "its process ended")

    def _lose(self, gone: Sequence[str], why: str) -> None:
        """These actors of another process are no more."""
        for actor in gone:
            self._slot_of.pop(actor, None)
        for cell in list(self.cells.values()):
            for actor in gone:
                for port in cell.ports.values():
                    if actor in port.peers:
                        port.peer_down(actor)
                cell.serving.peer_down(actor)
        self.watching.down([a for a in gone if not a.startswith("@")], why)

    def _wire(
        self, peer: Peer, only: Cell | None = None, wires: Sequence[WirePlan] | None = None
    ) -> None:
        if wires is None:
            wires = [*self.wires, *(w for own in self._guest_wires.values() for w in own)]
        for cell in [only] if only else list(self.cells.values()):
            mine = cell.address.role
            for actor in peer.actors:
                if actor in peer.coming:
                    continue
                address = parse_address(actor)
                theirs = address.role
                if address.rank or cell.address.rank:  # wires end at the leaders
                    cell.gang_up(address)
                    continue
                for w in wires:
                    if w.from_role == mine and w.to_role == theirs and w.from_port in cell.ports:
                        cell.ports[w.from_port].peer_up(actor, w.to_port)
                    if w.to_role == mine and w.from_role == theirs and w.to_port in cell.ports:
                        cell.ports[w.to_port].peer_up(actor, w.from_port)

    # ------------------------------------------------------------ routing

    def way(self, to: str, port: str, sender: str, sender_port: str, lane: int) -> Way:
        """Return the way to a port of an actor; for one that is unknown, a way to nowhere."""
        if to in self.cells:
            asks = not (port and sender_port)
            local = LocalWay(lambda: self._local(to, port, sender, sender_port), asks)
            return CopyWay(local, self.codec) if self._force_codec else local
        slot = self._slot_of.get(to)
        route = wire.Route(to, port, sender, sender_port)
        way = self._links.way(slot, route, lane) if slot is not None else None
        return way or LocalWay(lambda: None, asks=True)

    def _local(self, to: str, port: str, sender: str, sender_port: str) -> Take | None:
        cell = self.cells.get(to)
        return cell.taker(sender, sender_port, port) if cell is not None else None

    def close(self) -> None:
        """Take and send nothing more. The transport stays its owner's to close."""
        self.closed = True
        self.deadlines.close()
        self._links.stop()

    @property
    def slots(self) -> list[str]:
        """The other processes that are known."""
        return list(self._peers)

    def flush(self) -> None:
        """Send what waits, now (before a process ends)."""
        self._links.flush()

    def enter(self, slot: str, route: wire.Route) -> _Entry:
        """Another process has opened a route to here."""
        return _Entry(self, slot, route)

    def consider(self, entry: _Entry, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        """An operation came from another process, in order, and it is not yet known whose."""
        slot, route = entry.slot, entry.route
        if slot in self._dead or not self._may(slot, route) or self._is_wrong(slot):
            return
        known = slot in self._peers or route.to.startswith(("head/", "@"))
        if not known or self._too_early(slot, route.sender, op):
            early = self._early.setdefault(slot, deque())
            if len(early) < MAX_EARLY:
                early.append((entry, op, frames))
            else:
                self.told(WireError(f"dropped what {slot} sends: nobody here was told of it yet"))
            return
        cell = self.cells.get(route.to)
        if cell is None:
            return
        take = cell.taker(route.sender, route.sender_port, route.port)
        if slot in self._peers and (slot in self._up or not route.port):
            entry.take = take
        take(op, frames)

    def _is_wrong(self, slot: str) -> bool:
        """Tell whether a process that is not known cannot be one of this run; say so."""
        if slot in self._peers or slot == HEAD_SLOT:
            return False
        wrong = self._strangers.spoke(slot, self._peers, self.clock.now())
        if wrong:
            self.told(WireError(wrong))
        self._look_again()
        return bool(wrong)

    def _look_again(self) -> None:
        due_s = self._strangers.due_s
        if due_s is not None and not self._looking:
            self._looking = True
            delay_s = max(0.0, due_s - self.clock.now())
            asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self._looking = False
        if not self.closed:
            for text in self._strangers.overdue(self.clock.now()):
                self.told(WireError(text))
            self._look_again()

    def _too_early(self, slot: str, sender: str, op: wire.AnyOp) -> bool:
        """Tell whether this must wait until more is known of who says it."""
        peer = self._peers.get(slot)
        if peer is not None and peer.guest and sender not in self._slot_of:
            return True  # an actor that it has just got
        if not isinstance(op, _NEEDS_UP):
            return False
        return slot not in self._up or (peer is not None and sender in peer.coming)

    def _may(self, slot: str, route: wire.Route) -> bool:
        """Tell whether this process may say this: its own actors speak, the head alone orders."""
        if route.to.startswith("@") and slot != HEAD_SLOT:
            self.told(WireError(f"refused an order to {route.to} from {slot}: it is not the head"))
            return False
        peer = self._peers.get(slot)
        if peer is not None:
            whose = self._slot_of.get(route.sender)
            right = whose == slot or (whose is None and peer.guest)
        else:  # what is for others than the head waits, and is looked at again
            right = not route.to.startswith("head/") or route.sender == member_of(slot)
        if not right:
            self.told(WireError(f"refused what {slot} sent in the name of {route.sender}"))
        return right

    def told(self, error: WireError) -> None:
        """Something was refused or lost: say so, the same thing once a minute at most."""
        text, now_s = str(error), self.clock.now()
        if now_s < self._told.get(text, now_s):
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[text] = now_s + TOLD_AGAIN_S
        if self.on_wire_error is not None:
            self.on_wire_error(error)

    def link_broken(self, slot: str, text: str) -> None:
        """What cannot be repaired is a death: whoever owns this node decides whose."""
        self.told(WireError(text))
        if self.owner is not None:
            self.owner.link_broken(slot, text)

    def _replay(self, slot: str) -> None:
        early = self._early.pop(slot, None)
        for entry, op, frames in early or ():
            entry.take(op, frames)

    # ------------------------------------------------------------ reports

    def failed(self, address: Address, error: BaseException) -> None:
        """An actor raised."""
        if self.owner is not None:
            self.owner.actor_failed(address, error)

    def finish(self, address: Address, text: str) -> None:
        """An actor says that the run is done."""
        if self.owner is not None:
            self.owner.actor_finished(address, text)

    def observe(self, address: Address, kind: str, row: dict[str, Any]) -> None:
        """Keep a row until the next beat takes it to the head."""
        text = msgspec.json.encode(row, enc_hook=_plain).decode()
        if len(self.observations) == self.observations.maxlen:
            self.num_dropped_rows += 1  # told with the next beat
        self.observations.append(Observation(str(address), kind, self.clock.now(), text))

    async def arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """Get shared memory of this host."""
        assert self.owner is not None
        return await self.owner.open_arena(name, slot_bytes, slots)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)  # numpy and torch scalars
    if callable(item):
        return item()
    return str(value)
