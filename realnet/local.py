"""`realnet.Local`: actors as plain objects in the loop that runs now. No run, no topology file.

    async with realnet.Local(folder) as local:
        generator = await local.add(Generator, GeneratorConfig(), shared=[policy])
        async for delta in local.stream(generator, request): ...

For notebooks, scripts and tests of roles. Ports that roles join by policy are wired as they come;
the script asks, sends and follows itself. Nobody supervises: what an actor raises is raised by the
next call here.

Knows nothing of processes, heads or topologies. Called by its users.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from realnet.actor import Actor, RunInfo
from realnet.address import Address
from realnet.arena import Arenas
from realnet.cell import Cell
from realnet.config import Config, Shared
from realnet.errors import ConfigError, RealnetError, listed
from realnet.live import LiveAsk, LiveOutlet, LiveStateIn
from realnet.message import Message, Request, StreamRequest
from realnet.node import Node as Process
from realnet.ports import Inlet, StateOut, declared_handlers, declared_ports
from realnet.script import ScriptPorts
from realnet.topology.plan import WirePlan
from realnet.topology.wiring import Ends, ends_of, wire
from realnet.transport.memory import MemoryNetwork

R = TypeVar("R", bound=Message)
M = TypeVar("M", bound=Message)
A = TypeVar("A", bound=Actor[Any])
SCRIPT = "script"


class Local:
    """Actors in this loop. `folder` is where they write, and what relative references start from.

    Use it as `async with`. Leaving it stops the actors in the reverse of their order, and nothing
    of them stays but their files.
    """

    def __init__(self, folder: str | Path, *, base: str | Path | None = None, name: str = "local"):
        self.folder = Path(folder).resolve()
        info = RunInfo(name, self.folder, 1, False, Path(base or folder).resolve())
        transport = MemoryNetwork().transport(name)
        self._process = Process(f"{name}/0~1", transport, info)
        self._process.owner = self
        self._arenas = Arenas()
        self._cells: list[Cell] = []
        self._ends: dict[str, Ends] = {}
        self._error: BaseException | None = None
        self._ended = asyncio.Event()
        self._why = ""
        self._script: ScriptPorts | None = None

    async def __aenter__(self) -> Local:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process.listen()
        self._script = ScriptPorts(self._process, Address(SCRIPT, 0, 1))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for cell in reversed(self._cells):
            with contextlib.suppress(RealnetError):
                await cell.end(graceful=False)
        if self._script is not None:
            await self._script.cell.end(graceful=False)
        self._process.close()
        self._process.transport.close()
        self._arenas.close()

    # ------------------------------------------------------------ actors

    async def add(
        self,
        cls: type[A],
        config: Config | None = None,
        *,
        shared: Sequence[Shared | Mapping[str, Shared]] = (),
        policy: str = "policy",
        name: str = "",
    ) -> A:
        """Make an actor, wire it to those that are there, start it, and return it.

        `shared` are the records that its class declares; a mapping holds named ones ([tasks.X]).
        Raises ConfigError when one is missing, and whatever its `start` raises.
        """
        role = name or cls.__name__.lower()
        if role in self._ends or role == SCRIPT:
            raise ConfigError(f"{role} is there already: give this one another name=")
        records = _records(cls, shared, role)
        cls.preload()
        self._ends[role] = ends_of(role, policy, cls)
        wires, _, _ = wire({}, self._ends)
        self._process.learn([w for w in wires if w not in self._process.wires])
        address = Address(role, 0, 1)
        cell = self._process.add(cls, address, config or cls.Config(), records, policy)
        self._cells.append(cell)
        await cell.actor.start()
        self._process.local_up([address.full])
        for other in self._cells[:-1]:  # who is there already, to this one
            self._process.local_up([other.address.full])
        cell.begin_run()
        made = cell.actor
        assert isinstance(made, cls)
        return made

    # ------------------------------------------------------------ what a script does

    async def ask(self, actor: Actor[Any], request: Request[R], *, deadline_s: float = 30.0) -> R:
        """Ask an actor and return its reply. Raises what any ask raises."""
        return await self._port(actor, type(request))(request, deadline_s=deadline_s)

    async def stream(
        self, actor: Actor[Any], request: StreamRequest[R], *, deadline_s: float = 120.0
    ) -> AsyncGenerator[R, None]:
        """Ask an actor and iterate over its answer."""
        items = self._port(actor, type(request)).stream(request, deadline_s=deadline_s)
        async with contextlib.aclosing(items) as closing:  # type: ignore[type-var]
            async for item in closing:
                yield item

    async def send(self, actor: Actor[Any], record: Message, *, key: str = "") -> None:
        """Give an actor one item of work, at the inlet that takes such records."""
        port = self._made(actor, type(record), Inlet, LiveOutlet)
        await port.send(record, key=key)

    async def follow(self, actor: Actor[Any], kind: type[M]) -> LiveStateIn[M]:
        """Follow a state that an actor shows: `value`, `await get()`, `await changed()`."""
        made: LiveStateIn[M] = self._made(actor, kind, StateOut, LiveStateIn)
        return made

    async def ended(self) -> str:
        """Wait until an actor says that it is finished, and return its words."""
        await self._ended.wait()
        self._check()
        return self._why

    def _port(self, actor: Actor[Any], request: type[Message]) -> LiveAsk:
        role = actor.address.role
        handled = declared_handlers(type(actor))
        if request not in handled:
            raise ConfigError(
                f"{role} does not answer {request.__name__}; it answers "
                f"{listed(t.__name__ for t in handled)}"
            )
        port: LiveAsk = self._wired(f"ask-{role}", actor, "", "ask", request, LiveAsk)
        return port

    def _made(self, actor: Actor[Any], kind: type[Message], end: type, live: type) -> Any:
        ports = declared_ports(type(actor)).values()
        fitting = [p.name for p in ports if isinstance(p, end) and p.types == (kind,)]
        if len(fitting) != 1:
            verb = "takes" if end is Inlet else "shows"
            known = [t.__name__ for p in ports if isinstance(p, end) for t in p.types]
            raise ConfigError(
                f"{actor.address.role} {verb} no {kind.__name__}; it {verb}: {listed(known)}"
            )
        wired = "share" if end is Inlet else "state"
        return self._wired(f"{wired}-{actor.address.role}.{fitting[0]}", actor, fitting[0], wired,
                           kind, live)  # fmt: skip

    def _wired(
        self, name: str, actor: Actor[Any], port: str, how: str, kind: type[Message], live: type
    ) -> Any:
        """Return the script's port of this name, made and wired when it is new."""
        self._check()
        assert self._script is not None, "use it inside its async with block"
        role = actor.address.role
        ends = (role, port, SCRIPT, name) if how == "state" else (SCRIPT, name, role, port)
        wire = WirePlan(how, *ends, (kind.__name__,), "a script's")
        made: Any = self._script.port(name, live, kind, [wire])
        self._process.local_up([actor.address.full])
        self._process.local_up([self._script.cell.address.full])
        return made

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # ------------------------------------------------------------ what actors say

    def actor_failed(self, address: Address, error: BaseException) -> None:
        """An actor raised: the next call here raises it."""
        self._error = self._error or error
        self._ended.set()

    def actor_finished(self, address: Address, text: str) -> None:
        """An actor says that it is done."""
        self._why = text
        self._ended.set()

    def link_broken(self, slot: str, text: str) -> None:
        """There are no links in one process."""

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """Return shared memory of this process."""
        return self._arenas.open(name, slot_bytes * slots)


def _records(
    cls: type[Actor[Any]], shared: Sequence[Shared | Mapping[str, Shared]], role: str
) -> dict[type[Shared], Any]:
    """Return the records that a class declares, found among those given. Raises ConfigError."""
    given: dict[type[Shared], Any] = {}
    for one in shared:
        if isinstance(one, Shared):
            given[type(one)] = one
        elif one:
            given[type(next(iter(one.values())))] = dict(one)
    missing = [record.__name__ for record in cls.shared if record not in given]
    if missing:
        raise ConfigError(f"{role} needs {listed(missing)} in shared=[...]")
    return {record: given[record] for record in cls.shared}
