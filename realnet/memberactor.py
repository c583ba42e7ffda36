"""What the head talks to in every process of a run: it makes the actors of its slot, begins them
when told, tells their node who is there, beats, reports and stops them.

It also runs inside one process beside others (`launch/inline.py`). Knows nothing of what roles do,
nor of the process that it is in: `member.py` is that.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from realnet import host
from realnet.actor import Actor, RunInfo
from realnet.address import Address, parse_address
from realnet.cell import Cell
from realnet.config import Config, Shared, read_table
from realnet.control import (
    HEAD,
    HEAD_SLOT,
    Beat,
    Begin,
    Failed,
    Finish,
    Join,
    Leave,
    Observed,
    OpenArena,
    Peer,
    PeerChanged,
    PeerDown,
    PeerJoined,
    PeerUp,
    StopActors,
)
from realnet.errors import ConfigError, RealnetError, WireError
from realnet.liveness import BEAT_S
from realnet.message import (
    Message,
    Nothing,
    Request,
    StreamRequest,
    reply_type,
    schema_hash,
)
from realnet.node import Node
from realnet.ports import Ask, declared_handlers, declared_ports, handles
from realnet.topology.kinds import load_kind
from realnet.topology.plan import Plan, SlotPlan
from realnet.topology.resolve import shared_values

MEMORY_S = 1.0  # how often the memory of a process that has a limit is looked at


class MemberConfig(Config):
    """Nothing to configure: the plan says it all."""


class MemberActor(Actor[MemberConfig]):
    """What the head talks to in every process. `left` is set when the process may end."""

    head = Ask(Join, OpenArena)

    node: Node
    plan: Plan
    slot: SlotPlan
    classes: dict[str, type[Actor[Any]]]

    def prepare(self, node: Node, plan: Plan, slot: SlotPlan, cell: Cell) -> None:
        """Hand in what the process knows, before `join`."""
        self.node, self.plan, self.slot = node, plan, slot
        self._cell = cell
        self.left = asyncio.Event()
        self.failed = False
        self.classes = {
            r: load_kind(plan.roles[r].kind, Path(plan.base), f"plan.json: roles.{r}")
            for r in slot.roles
        }
        self._role_cells: dict[str, Cell] = {}
        node.owner = self
        if node.on_wire_error is None:
            node.on_wire_error = self._wire_error

    def load_roles(self) -> None:
        """Import what is heavy, and have each role refuse what it cannot do here."""
        for cls in self.classes.values():
            cls.preload()
        for role, cls in self.classes.items():
            cls.probe(*self._tables(role), Path(self.plan.base))

    @property
    def _slot_full(self) -> str:
        return f"{self.slot.name}~{self.address.incarnation}"

    def _actor(self, role: str) -> Address:
        return Address(role, self.slot.index, self.address.incarnation, self.slot.rank)

    async def join(self, head_endpoint: str) -> None:
        """Say hello to the head and learn who else is there."""
        self.node.connect(Peer(HEAD_SLOT, head_endpoint, (HEAD,)))
        self._cell.ports["head"].peer_up(HEAD, "")
        actors = tuple(self._actor(r).full for r in self.slot.roles)
        me = Peer(self._slot_full, self.node.transport.endpoint, actors)
        kinds = {t for c in self.classes.values() for t in _wire_types(c)}
        schemas = {f"{t.__module__}.{t.__qualname__}": schema_hash(t) for t in kinds}
        budgets = {r: self._budget(r) for r in self.slot.roles}
        joined = await self.head(
            Join(me, os.getpid(), schemas, budgets, self.clock.now(), host.clock_name()),
            deadline_s=30.0,
        )
        if joined.refused:
            raise ConfigError(joined.refused)
        for peer in joined.peers:
            self.node.connect(peer)
            if peer.up:
                self.node.peer_up(peer.slot)
        self.spawn(self._beat(), name="beat")

    def _budget(self, role: str) -> tuple[float, str]:
        planned, cls = self.plan.roles[role], self.classes[role]
        return planned.progress_s or cls.progress_s, planned.progress_then or cls.progress_then

    # ------------------------------------------------------------ the head's orders

    @handles
    async def begin(self, request: Begin) -> Nothing:
        """Make and start the actors of this process. Any failure in it ends the process."""
        address = self.address
        try:
            for role in self.slot.roles:
                address = self._actor(role)
                self._make(role)
            for cell in self._role_cells.values():
                address = cell.address
                await cell.actor.start()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # it came from what `start` awaited
                self.actor_failed(address, RuntimeError("its start was cancelled from within"))
            raise
        except Exception as error:
            self.actor_failed(address, error)
            raise
        return Nothing()

    def _make(self, role: str) -> None:
        planned = self.plan.roles[role]
        cls = self.classes[role]
        config, shared = self._tables(role)
        ranks = planned.ranks if self.slot.gang else 1
        cell = self.node.add(cls, self._actor(role), config, shared, planned.policy, ranks)
        self._role_cells[role] = cell

    def _tables(self, role: str) -> tuple[Config, dict[type[Shared], Any]]:
        planned, cls = self.plan.roles[role], self.classes[role]
        config = read_table(cls.Config, planned.config, f"plan.json: roles.{role}")
        return config, shared_values(cls, planned.policy, self.plan.shared)

    @handles
    async def peer_joined(self, record: PeerJoined) -> None:
        """Another process can be reached."""
        self.node.connect(record.peer)

    @handles
    async def peer_up(self, record: PeerUp) -> None:
        """Another process is up; or this one is, and everybody knows."""
        if record.slot != self._slot_full:
            self.node.peer_up(record.slot)
            return
        self.node.local_up([c.address.full for c in self._role_cells.values()])
        for cell in self._role_cells.values():
            cell.begin_run()

    @handles
    async def peer_changed(self, record: PeerChanged) -> None:
        """A guest has come, or changed."""
        self.node.peer_changed(record.peer)

    @handles
    async def peer_down(self, record: PeerDown) -> None:
        """Another process is dead."""
        self.node.peer_down(record.slot, record.why)

    @handles
    async def stop_actors(self, request: StopActors) -> Nothing:
        """Drain (if graceful) and stop the actor of one role."""
        cell = self._role_cells.pop(request.role, None)
        if cell is not None:
            try:
                await cell.end(request.graceful)
            except Exception as error:
                self.actor_failed(cell.address, error)
                raise
            self.node.watching.down([cell.address.full], "it was stopped in order")
            self._report()  # the cell stays with the node: it tells who asks that it was stopped
        return Nothing()

    @handles
    async def leave(self, record: Leave) -> None:
        """End the process."""
        self._report()
        self.left.set()

    # ------------------------------------------------------------ what the node's actors want

    def actor_failed(self, address: Address, error: BaseException) -> None:
        """An actor raised: tell the head once, then end the process. It is restarted as a whole."""
        if self.failed:
            return
        self.failed = True
        self.node.watching.down([address.full], f"it failed: {error!r}")
        trace = "".join(traceback.format_exception(error))
        print(trace, file=sys.stderr, flush=True)  # noqa: T201
        text = str(error) if isinstance(error, RealnetError) else f"{type(error).__name__}: {error}"
        fatal = isinstance(error, ConfigError)
        self._report()
        self.head.tell(Failed(self._slot_full, str(address), text, trace, fatal))
        self._leave_in(0.2)

    def _wire_error(self, error: WireError) -> None:
        self.node.observe(self.address, "event", {"text": f"{self.slot.name}: {error}"})

    def link_broken(self, slot: str, text: str) -> None:
        """A link has a hole that cannot be repaired: start afresh, as after a death."""
        self.actor_failed(self.address, WireError(text))

    def _leave_in(self, seconds: float) -> None:
        """Leave a moment later, so that the last words get out."""
        asyncio.get_running_loop().call_later(seconds, self.left.set)

    def actor_finished(self, address: Address, text: str) -> None:
        """An actor says that the run is done."""
        self._report()
        self.head.tell(Finish(str(address), text))

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """Ask the agent of this host for shared memory."""
        opened = await self.head(OpenArena(name, slot_bytes * slots), deadline_s=60.0)
        return opened.path

    # ------------------------------------------------------------ beats

    async def _beat(self) -> None:
        due_s = self.clock.now()
        while True:
            due_s = max(due_s + BEAT_S, self.clock.now())
            await self.clock.sleep(due_s - self.clock.now())
            self._report(lag_s=max(0.0, self.clock.now() - due_s))

    async def keep_within(self, limit_bytes: int) -> None:
        """Fail when this process, with what it started, takes more memory than it may."""
        while (used := host.memory_bytes()) <= limit_bytes:
            await self.clock.sleep(MEMORY_S)
        names = " + ".join(self.slot.roles)
        self.actor_failed(
            self.address,
            RealnetError(
                f"{self.slot.name} takes {used / 2**20:,.0f} MiB of memory, and [roles."
                f"{self.slot.roles[0]}].memory allows {limit_bytes / 2**20:,.0f} ({names} and what "
                "they started; mapped weights do not count): give it more, or let it hold less"
            ),
        )

    def _report(self, lag_s: float = 0.0) -> None:
        doing = tuple(cell.does() for cell in self._role_cells.values())
        self.head.tell(Beat(self._slot_full, lag_s, doing))
        rows = self.node.observations
        if self.node.num_dropped_rows:
            lost, self.node.num_dropped_rows = self.node.num_dropped_rows, 0
            text = f"{lost} rows were dropped: more came between two beats than are kept"
            self.node.observe(self.address, "event", {"text": text})
        while rows:
            batch = tuple(rows.popleft() for _ in range(min(len(rows), 500)))
            self.head.tell(Observed(batch))


def _wire_types(cls: type[Actor[Any]]) -> list[type[Message]]:
    """Return the records that a role takes, gives, asks with and answers."""
    kinds = [t for port in declared_ports(cls).values() for t in port.types]
    kinds += declared_handlers(cls)
    return kinds + [reply_type(t) for t in kinds if issubclass(t, Request | StreamRequest)]


def make_member(node: Node, plan: Plan, slot: SlotPlan, incarnation: int) -> MemberActor:
    """Put the member actor into a node."""
    address = parse_address(f"@{slot.name}/0~{incarnation}")
    cell = node.add(MemberActor, address, MemberConfig())
    member = cell.actor
    assert isinstance(member, MemberActor)
    member.prepare(node, plan, slot, cell)
    return member


def run_info(plan: Plan, folder: Path, attempt: int, resumed: bool) -> RunInfo:
    """Return what actors are told of the run."""
    return RunInfo(plan.name, folder, attempt, resumed, Path(plan.base))
