"""A cell: one actor at work in a process, with its world and its live ports.

It makes the actor from its class and tables, gives it clock, randomness, tasks, the compute thread
and a place to report to, routes operations to ports and handlers, and turns any failure into one
report. It implements `actor.World` and `live.Switch`.

Knows nothing of links or other processes: what leaves goes through `Surroundings` (the node).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

from realnet import gang, wire
from realnet.actor import Actor, Clock, RunInfo
from realnet.address import Address
from realnet.calls import Calls
from realnet.codec import Codec, Frame
from realnet.config import Config, Shared
from realnet.control import Doing, Figures, Span
from realnet.deadlines import Deadlines
from realnet.errors import ConfigError, RealnetError, Stopping, WireError
from realnet.live import (
    LiveAsk,
    LiveInlet,
    LiveOutlet,
    LivePort,
    LiveStateIn,
    LiveStateOut,
)
from realnet.message import Request, StreamRequest, reply_type
from realnet.ports import (
    Ask,
    Inlet,
    Outlet,
    StateIn,
    StateOut,
    declared_handlers,
    declared_ports,
)
from realnet.serving import Serving
from realnet.waits import Waits
from realnet.watches import Death
from realnet.watching import Watching
from realnet.ways import Take, Way
from realnet.workbench import Workbench

T = TypeVar("T")
CANCEL_AGAIN_S = 2.0


def _drop(op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
    """For a port that is not there: another build of the same role may have it."""


class Surroundings(Protocol):
    """What a cell needs of its node."""

    codec: Codec
    waits: Waits
    watching: Watching
    deadlines: Deadlines
    clock: Clock
    run_info: RunInfo

    def way(self, to: str, port: str, sender: str, sender_port: str, lane: int) -> Way: ...
    def told(self, error: WireError) -> None: ...
    def is_local(self, peer: str) -> bool: ...
    def failed(self, address: Address, error: BaseException) -> None: ...
    def observe(self, address: Address, kind: str, row: dict[str, Any]) -> None: ...
    def finish(self, address: Address, text: str) -> None: ...
    async def arena(self, name: str, slot_bytes: int, slots: int) -> str: ...


class Cell:
    """One actor at work."""

    def __init__(
        self,
        node: Surroundings,
        actor_class: type[Actor[Any]],
        address: Address,
        config: Config,
        shared: dict[type[Shared], Any],
        policy: str = "",
        num_ranks: int = 1,
    ):
        self._node = node
        self.address = address
        self.codec = node.codec
        self.waits = node.waits
        self.clock = node.clock
        seed = hashlib.blake2b(f"{node.run_info.name} {address}".encode(), digest_size=8).digest()
        self.rng = random.Random(int.from_bytes(seed, "big"))
        self.now = self.clock.now
        self.calls = Calls(self.codec, self.waits, node.deadlines, str(address), self.now)
        self.doing = ""
        self.ended = 0  # what the actor has brought to an end, as far as no port counts it
        self.bench = Workbench(str(address), self.now)
        self._progress = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in order, so that ends can be repeated
        self._closing = False

        self.actor = actor_class()
        self.actor.config = config
        self.actor.address = address
        self.actor.run_info = node.run_info
        self.actor.policy_name = policy
        self.actor.clock = self.clock
        self.actor.rng = self.rng
        self.actor._world = self
        self.actor._shared = shared
        for request in declared_handlers(actor_class):
            self.codec.register(request)
        self.serving = Serving(
            self,
            str(address),
            {
                request: getattr(self.actor, method)
                for request, method in declared_handlers(actor_class).items()
            },
            actor_class.mailbox,
        )
        self.ports: dict[str, LivePort] = {}
        for name, declared in declared_ports(actor_class).items():
            port = self.ports[name] = self._live(declared)
            port.kinds = declared.types
        self.actor.__dict__.update(self.ports)  # before the declarations in the class
        if num_ranks > 1:
            self.ports[gang.PORT] = LiveAsk(self, gang.PORT, False)
            for request in declared_handlers(actor_class):
                if issubclass(request, Request | StreamRequest):
                    self.codec.register(reply_type(request))
        ranks = cast("LiveAsk | None", self.ports.get(gang.PORT))
        self.actor.gang = gang.Gang(address, num_ranks, ranks, self.waits)

    def _live(self, declared: Any) -> LivePort:
        name: str = declared.name
        for kind in declared.types:
            self.codec.register(kind)
            if issubclass(kind, Request | StreamRequest):
                self.codec.register(reply_type(kind))
        if isinstance(declared, Inlet):
            handler = getattr(self.actor, declared.handler_name, None)
            if handler is None:
                raise ConfigError(
                    f"{type(self.actor).__name__}.{name} is an Inlet without a handler: mark one "
                    f"with @{name}.handler"
                )
            return LiveInlet(self, name, declared.bounds(self.actor.config), handler)
        if isinstance(declared, Outlet):
            return LiveOutlet(self, name)
        if isinstance(declared, Ask):
            return LiveAsk(self, name, declared.prefer == "local")
        if isinstance(declared, StateIn):
            return LiveStateIn(self, name)
        if isinstance(declared, StateOut):
            return LiveStateOut(self, name)
        raise TypeError(f"{declared!r} is no port")

    # ------------------------------------------------------------ operations in and out

    def taker(self, sender: str, sender_port: str, port: str) -> Take:
        """Return what takes the operations of one route: a port of this actor, or its handlers.

        A failure in taking one is the actor's failure; one that cannot be decoded is its sender's.
        """
        if not port:
            return self.serving.taker(sender, sender_port)
        live = self.ports.get(port)
        if live is None:
            return _drop
        receive = live.taker(sender, sender_port)
        if isinstance(live, LiveAsk):
            return receive  # answers never fail the actor

        def take(op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
            if self._closing and type(op) is wire.Item:
                return  # nothing new is taken: it goes to another once we are gone
            try:
                receive(op, frames)
            except WireError as error:
                self.told(error)
            except Exception as error:
                self.report(error)

        return take

    def way(self, to: str, port: str, sender_port: str, lane: int) -> Way:
        """Return the way to a port of another actor."""
        return self._node.way(to, port, self.address.full, sender_port, lane)

    def told(self, error: WireError) -> None:
        """Somebody sent what cannot be used: say so, and go on."""
        self._node.told(error)

    def is_local(self, peer: str) -> bool:
        """Tell whether a peer lives in this process and records need no codec."""
        return self._node.is_local(peer)

    def later(self, fn: Callable[[], None]) -> None:
        """Call `fn` at the end of this turn of the loop."""
        asyncio.get_running_loop().call_soon(fn)

    # ------------------------------------------------------------ world

    def task(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine; its failure is the actor's."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self.address} {name}")
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    spawn = task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self.report(cast(BaseException, task.exception()))

    def report(self, error: BaseException) -> None:
        """Something failed: that is this actor's failure."""
        if not (self._closing and isinstance(error, Stopping)):
            self._node.failed(self.address, error)

    async def compute(self, fn: Callable[..., T], *args: Any, label: str = "compute") -> T:
        """Run blocking work in the actor's one thread and note when it was busy."""
        return await self.bench.run(fn, *args, label=label)

    def does(self) -> Doing:
        """Return what the actor does, for one beat: what it was busy with is told once."""
        who = str(self.address)
        figures = [Figures(n, p.done, p.waiting, p.held) for n, p in self.ports.items()]
        figures.append(Figures("", self.serving.answered, 0, self.serving.open))
        figures.append(Figures("?", self.calls.ended, 0, self.calls.open))
        return Doing(
            who,
            self.doing,
            tuple(self.waits.of(who)[:3]),
            tuple(Span(a, b, label) for a, b, label in self.bench.take_spans()),
            self.ended + self.bench.ended + sum(f.done for f in figures),
            self.waits.hold_up(who) or self.bench.busy or any(f.held for f in figures),
            tuple(f for f in figures if f.done or f.waiting or f.held),
        )

    def observe(self, kind: str, row: dict[str, Any]) -> None:
        """Report a row of metrics or an event."""
        self._node.observe(self.address, kind, row)

    def progress(self, text: str) -> None:
        """Note what the actor is doing."""
        self.doing = text
        self.ended += 1
        self._progress += 1

    def progress_mark(self) -> int:
        """Return a number that is another one whenever the actor has shown progress since."""
        if self.bench.busy:  # computing is progress, until the beats say otherwise
            self._progress += 1
        return self._progress + self.bench.ended

    def gang_up(self, other: Address) -> None:
        """A rank is up; it is talked to if it is of the same gang and life."""
        mine = self.address
        whole = Address(mine.role, mine.index, mine.incarnation, other.rank)
        if other == whole != mine:
            self.ports[gang.PORT].peer_up(other.full, "")
            self.actor.gang.heard()

    def finish(self, text: str) -> None:
        """Ask for the normal end of the run."""
        self._node.finish(self.address, text)

    async def arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """Get shared memory of this host."""
        return await self._node.arena(name, slot_bytes, slots)

    async def watch(self, address: Address | str) -> Death:
        """Wait for the end of another actor's life."""
        return await self._node.watching.watch(str(self.address), address)

    # ------------------------------------------------------------ life

    def begin_run(self) -> None:
        """Start the actor's main loop, once it is up."""
        if type(self.actor).run is not Actor.run:
            self.task(self._run(), "run")

    async def _run(self) -> None:
        try:
            await self.actor.run()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled it: in silence it would be up, and do nothing, for ever.
            raise RealnetError("its run was cancelled by what it waited for") from error

    async def end(self, graceful: bool) -> None:
        """Drain if asked to, then stop and release everything."""
        try:
            if graceful:
                await self.actor.drain()
        finally:
            await self._release()

    async def _release(self) -> None:
        self._closing = True
        self.serving.close()
        while tasks := [t for t in self._tasks if t is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)  # some swallow the first one
        await self.actor.stop()
        for port in self.ports.values():
            port.close()
        self.calls.close()
        self.bench.close()
