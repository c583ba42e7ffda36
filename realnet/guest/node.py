"""`realnet.Node`: a run's actors inside somebody else's process, in a loop that is already running.

    async with realnet.Node("runs/demo", name="notebook") as node:
        print(await node.ask("helper", Scale(3)))

It takes part as a guest: no signal handlers, no process of its own, no thread but those of its
sockets, nothing global; several in one process are fine, under any asyncio loop. When the block is
left nothing of it stays. What it held goes to others if it dies, and the run goes on.

Knows nothing of roles. `joining.py` finds the way in; the head's `desk.py` is the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from realnet.actor import Actor, RunInfo
from realnet.address import Address, parse_address
from realnet.cell import Cell
from realnet.config import Config, read_table
from realnet.control import HEAD, HEAD_SLOT, Peer, member_of
from realnet.errors import (
    AskError,
    ConfigError,
    NoPeer,
    RealnetError,
    RunFolderError,
    SecurityError,
    WireError,
)
from realnet.guest.hosting import Hosting
from realnet.guest.inside import GuestActor
from realnet.guest.joining import Way, way_in
from realnet.guest.nearby import place
from realnet.guest.records import (
    DESK,
    Depart,
    Enter,
    Entered,
    Given,
    Serve,
    Wire,
)
from realnet.guest.wires import ends_of_role, guest_wires
from realnet.live import LiveAsk, LiveStateIn
from realnet.message import Message, Request, StreamRequest, reply_type
from realnet.node import Node as Process
from realnet.schema import schema_hash
from realnet.script import NoConfig, ScriptPorts
from realnet.topology.ends import plain_ends
from realnet.topology.kinds import load_kind
from realnet.topology.plan import EndsPlan, Plan, WirePlan, read_plan
from realnet.topology.resolve import shared_values
from realnet.transport import Transport

R = TypeVar("R", bound=Message)
M = TypeVar("M", bound=Message)
A = TypeVar("A", bound=Actor[Any])
DESK_S = 10.0
LINGER_S = 0.2
_log = logging.getLogger("realnet")


class Node:
    """A guest in a live run. Use it as `async with`; what it offers works inside the block.

    `run` is the run's folder, on its host and as its user; or leave it out and name a `key` file
    that `realnet grant` wrote, from wherever its addresses can be reached. `name` is how the run
    calls this guest (default: a random one, or the key's). `join_s` and `leave_s` (seconds) bound
    coming in, and the draining of actors when leaving.

    Entering raises RunFolderError (the run is not going on), SecurityError (the key) or ConfigError
    (the name, or this run takes no guests).
    """

    def __init__(
        self,
        run: str | Path = "",
        *,
        name: str = "",
        key: str | Path | None = None,
        join_s: float = 10.0,
        leave_s: float = 5.0,
    ):
        self._said = (run, name, key)
        self._join_s, self._leave_s = join_s, leave_s
        self._way: Way | None = None
        self._plan: Plan | None = None
        self._checked: set[tuple[str, type[Message]]] = set()
        self._follows: dict[tuple[str, str], LiveStateIn[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._why = ""
        self._error: BaseException | None = None
        self._trouble = ""

    def come_by(self, way: Way) -> None:
        """Come in by a way that is known already (`realnet.testing`)."""
        self._way = way

    # ------------------------------------------------------------ coming and going

    async def __aenter__(self) -> Node:
        if hasattr(self, "_process"):
            raise RealnetError("a realnet.Node is entered once: make another one")
        way = self._way or way_in(*self._said)
        self._way = way
        meeting = way.meeting
        info = RunInfo(
            *(meeting.run, Path(meeting.folder), meeting.attempt, meeting.resumed),
            Path(meeting.base),
        )
        try:
            self._transport: Transport = way.open()
        except BaseException:
            way.done()
            raise
        self._process = Process(way.slot, self._transport, info)
        self._process.owner = self
        self._process.on_wire_error = self._wire_error
        own = parse_address(member_of(way.slot))
        self._guest_cell = self._process.add(GuestActor, own, NoConfig())
        self._script = ScriptPorts(self._process, parse_address(way.slot))
        self._hosting = Hosting(self._process, self._desk, lambda: bool(self._why))
        guest = self._guest_cell.actor
        assert isinstance(guest, GuestActor)
        self._guest = guest
        try:
            await self._enter(meeting.endpoint)
        except BaseException:
            await self._close()
            raise
        return self

    async def _enter(self, endpoint: str) -> None:
        process, slot = self._process, self._process.slot
        self._guest.prepare(process, self, 3.0, 15.0)
        process.listen()
        process.connect(Peer(HEAD_SLOT, endpoint, (HEAD, DESK)))
        self._guest_cell.ports["desk"].peer_up(DESK, "")
        entered = await self._first_word(
            Enter(slot, self._transport.endpoint, os.getpid(), place())
        )
        if entered.refused:
            raise ConfigError(entered.refused)
        self._plan = plan = msgspec.json.decode(entered.plan, type=Plan)
        trust = getattr(self._transport, "trust", None)
        if trust is not None:
            trust(entered.public)
        process.learn(plan.wires)
        for peer in entered.peers:
            process.peer_changed(peer) if peer.guest else process.connect(peer)
            if peer.up:
                process.peer_up(peer.slot)
        self._guest.prepare(process, self, float(plan.run["suspect"]), float(plan.run["hung"]))
        self._guest.spawn(self._guest.beats(), name="beat")

    async def _first_word(self, enter: Enter) -> Entered:
        """Ask to be let in; say what is wrong if there is no answer."""
        asked = asyncio.ensure_future(self._guest.desk(enter, deadline_s=self._join_s))
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({asked, news}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
        except AskError as error:
            where = self._way.meeting.endpoint if self._way else ""
            raise RunFolderError(
                f"no answer from the run at {where} in {self._join_s:g} s"
                + (f": {self._trouble}" if self._trouble else "")
                + f"; is it still going on, and can it be reached from here? ({error})"
            ) from None
        finally:
            for task in (asked, news):
                task.cancel()
            await asyncio.gather(asked, news, return_exceptions=True)
        raise self._error or RealnetError(self._why)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        """Leave: actors drain, the head is told, and nothing of this stays."""
        graceful = self._plan is not None and not self._news.is_set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._leave_s):
                    await self._hosting.take_all(graceful=graceful)
            if self._plan is not None and not self._process.closed and not self._why:
                await self._guest.beat()  # the last rows
                await self._guest.desk(Depart(self._process.slot), deadline_s=1.0)
        except AskError as error:
            _log.debug("leaving %s: %s", self.name, error)
        finally:
            self._say_over("this node was left")
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for cell in (*self._hosting.cells, self._script.cell, self._guest_cell):
                await cell.end(graceful=False)
            self._process.flush()
            self._process.close()
            self._transport.close(LINGER_S)
            if self._way is not None:
                self._way.done()

    # ------------------------------------------------------------ what it offers

    @property
    def name(self) -> str:
        """How the run calls this guest."""
        return self._process.slot.partition("/")[0]

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        if self._plan is None:
            raise RealnetError("this node is not in a run: use it inside its async with block")
        return self._plan

    @property
    def ended(self) -> str:
        """Why this guest is in no run any more; "" while it is."""
        return self._why

    async def wait(self) -> str:
        """Wait until the run is over, and return why. Raises the first error of an actor hosted
        here, and RealnetError when this guest was put out or the run is gone without a word.
        """
        await self._news.wait()
        if self._error is not None:
            raise self._error
        return self._why

    async def ask(
        self, role: str, request: Request[R], *, deadline_s: float | None = None, to: str = ""
    ) -> R:
        """Ask one member of a role (or `to`, "worker/1") and return its reply.

        `deadline_s`: default 30 s. Raises ConfigError when the role does not answer such requests,
        else what any ask raises (DeadlineExceeded, PeerDied, NoPeer, Overloaded, Refused).
        """
        port = self._ask_port(role, type(request))
        whom = next((p for p in port.peers if to and p.partition("~")[0] == to), to or None)
        return await port(request, deadline_s=deadline_s, to=whom)

    async def stream(
        self, role: str, request: StreamRequest[R], *, deadline_s: float | None = None
    ) -> AsyncGenerator[R, None]:
        """Ask one member of a role and iterate over its answer (default: 120 s for all of it)."""
        items = self._ask_port(role, type(request)).stream(request, deadline_s=deadline_s)
        async with contextlib.aclosing(items) as closing:  # type: ignore[type-var]
            async for item in closing:
                yield item

    async def follow(self, role: str, kind: type[M], *, port: str = "") -> LiveStateIn[M]:
        """Follow a state that a role shows: `value`, `await get()`, `await changed()`."""
        self._check_open()
        target = f"{role}.{port}" if port else role
        known = self._follows.get((target, kind.__name__))
        if known is not None:
            return known
        own = f"follow-{len(self._follows)}"
        ends = EndsPlan(
            {own: ("StateIn", (kind.__name__,))}, (), {kind.__name__: schema_hash(kind)}
        )
        full = self._process.slot
        wires = guest_wires(self.name, ends, {own: [target]}, self.plan)
        live: LiveStateIn[M] = self._script.port(own, LiveStateIn, kind, wires)
        await self._desk(Wire(full, full, ends, {own: (target,)}))
        self._follows[target, kind.__name__] = live
        return live

    async def actor(
        self,
        cls: type[A],
        config: Config | None = None,
        *,
        wires: Mapping[str, str | Sequence[str]] | None = None,
        name: str = "",
        policy: str = "",
    ) -> A:
        """Put an actor of your own into this guest, start it, and return it.

        `wires` says for each of its ports where it goes: {"helper": "helper"}, or "role.port" where
        a role has several that fit. Raises ConfigError with a line for each end that does not fit,
        and whatever its `start` raises.
        """
        self._check_open()
        short = name or cls.__name__.lower()
        role = f"{self.name}.{short}"
        if any(c.address.role == role for c in self._hosting.cells):
            raise ConfigError(f"{role} is there already: give this one another name=")
        ends = plain_ends(cls)
        chosen = {p: (w,) if isinstance(w, str) else tuple(w) for p, w in (wires or {}).items()}
        made = guest_wires(role, ends, chosen, self.plan)
        shared = shared_values(cls, policy, self.plan.shared)
        life = parse_address(self._process.slot).incarnation
        full = Address(role, 0, max(life, time.time_ns() // 1_000_000)).full
        await self._desk(Wire(self._process.slot, full, ends, chosen))
        self._process.learn([w for w in made if w not in self._process.wires])
        return await self._hosting.host(cls, full, config or cls.Config(), shared, policy)

    async def serve(self, role: str, cls: type[Actor[Any]] | None = None) -> Actor[Any]:
        """Host one more member of an elastic role ([roles.X] max = ...), configured as planned.

        The class comes from the plan in the run's folder; whoever came by a key alone hands it in:
        nothing is imported because a message said so. Returns the actor. Raises ConfigError when
        the role has no free place, or when its code here differs from the run's.
        """
        self._check_open()
        where = f"serve {role}"
        ends_of_role(role, self.plan, where)
        planned = self.plan.roles[role]
        if cls is None:
            if self._way is None or not self._way.has_folder:
                raise ConfigError(
                    f"{where}: this guest came by a key: hand in the class, serve({role!r}, Class)"
                )
            on_disk = read_plan(Path(self._way.meeting.folder))
            cls = load_kind(on_disk.roles[role].kind, Path(on_disk.base), where)
        config = read_table(cls.Config, planned.config, f"plan.json: roles.{role}")
        shared = shared_values(cls, planned.policy, self.plan.shared)
        cls.preload()
        given = await self._desk(Serve(self._process.slot, role, plain_ends(cls)))
        return await self._hosting.host(cls, given.actor, config, shared, planned.policy)

    async def remove(self, actor: Actor[Any]) -> None:
        """Drain and stop an actor of this guest; what it held goes to others."""
        await self._hosting.take_out(actor.address.full, graceful=True)

    def _ask_port(self, role: str, request: type[Message]) -> LiveAsk:
        self._check_open()
        if (role, request) not in self._checked:
            ends_of_role(role, self.plan, f"ask {role}")
            reply = reply_type(request)
            mine = EndsPlan(
                {"ask": ("Ask", (request.__name__,))},
                records={t.__name__: schema_hash(t) for t in (request, reply)},
            )
            guest_wires(self.name, mine, {"ask": [role]}, self.plan)
            self._checked.add((role, request))
        name = f"ask-{role}"
        wire = WirePlan("ask", self.name, name, role, "", (), "a guest asks")
        return self._script.port(name, LiveAsk, request, [wire])

    async def _desk(self, request: Request[Given]) -> Given:
        """Ask the head for something. Raises ConfigError with its refusal."""
        given = await self._guest.desk(request, deadline_s=DESK_S)
        if given.refused:
            raise ConfigError(given.refused)
        return given

    def _check_open(self) -> None:
        if self._why:
            raise NoPeer(f"{self.name} is in no run any more: {self._why}")
        assert self.plan is not None

    # ------------------------------------------------------------ what it is told

    def over(self, why: str, failed: bool) -> None:
        """The run is over, or over for this guest: whoever waits hears of it."""
        if self._why:
            return
        if failed:
            self._error = self._error or RealnetError(f"{self.name} is put out of the run: {why}")
            _log.error("%s is put out of the run: %s", self.name, why)
        self._say_over(why)
        for slot in self._process.slots:
            self._process.peer_down(slot, why)

    def _say_over(self, why: str) -> None:
        self._why = self._why or why
        self._news.set()

    def hosted(self) -> list[Cell]:
        """The actors that the run is shown."""
        return [self._script.cell, *self._hosting.cells]

    async def stop_role(self, role: str) -> None:
        """The run ends in order: stop what this guest hosts of a role."""
        await self._hosting.stop_role(role)

    def actor_failed(self, address: Address, error: BaseException) -> None:
        """An actor raised: it is taken out of the run; the others of this guest go on."""
        if not self._hosting.has(address.full):
            self.over(f"{address} failed: {error!r}", True)
            return
        _log.error("%s, an actor of %s, failed", address, self.name, exc_info=error)
        self._error = self._error or error
        self._news.set()
        text = f"{type(error).__name__}: {error}"
        task = asyncio.ensure_future(self._hosting.take_out(address.full, graceful=False, why=text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def actor_finished(self, address: Address, text: str) -> None:
        """An actor of a guest cannot end the run: what it says is an event."""
        self._process.observe(address, "event", {"text": f"{address} has finished: {text}"})

    def link_broken(self, slot: str, text: str) -> None:
        """A link has a hole: come again, as another life."""
        self.over(text, True)

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """Shared memory is of the run's own processes."""
        raise ConfigError(f"a guest has no shared memory of the run (arena {name!r})")

    def _wire_error(self, error: WireError) -> None:
        self._trouble = str(error)
        _log.info("%s: %s", self.name, error)
        if self._plan is None and getattr(self._transport, "refused", False):
            self._error = SecurityError(
                f"the run does not take the key of {self.name}: it was revoked, or is of another "
                f"run or attempt; ask for a new one (realnet grant RUN --as {self.name})"
            )
            self._news.set()
