"""Actor: what a role is written as.

An actor is one object with typed ports and handlers, living in one asyncio loop. It gets its
world handed in (clock, randomness, tasks, a compute thread, a place to report to), so that the
same code runs in a process of its own, beside others in one process, and under a virtual clock.

Knows nothing of processes, sockets or topologies. Role authors subclass it; `cell.py` runs it.
"""

from __future__ import annotations

import asyncio
import random
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

from realnet.address import Address
from realnet.config import Config, Shared
from realnet.errors import ConfigError, listed
from realnet.serving import Mailbox
from realnet.supervision import Restart
from realnet.waits import Waits
from realnet.watches import Death

if TYPE_CHECKING:
    from realnet.gang import Gang

C = TypeVar("C", bound=Config)
S = TypeVar("S", bound=Shared)
T = TypeVar("T")


class RunInfo(NamedTuple):
    """The run that an actor belongs to. `base` is the folder of the topology file."""

    name: str
    folder: Path
    attempt: int
    resumed: bool
    base: Path


class Beside(NamedTuple):
    """A role of the same network: its table, how many members it has, and its kind."""

    config: Any
    members: int
    kind: str = ""


class Place(NamedTuple):
    """Where a process of a role is to live, as far as memory goes. `base` as in RunInfo.

    `beside` are the roles of its network, itself among them, by name. `gpu_bytes` is the memory of
    each of its GPUs, as its pool says it; 0 when it does not.
    """

    base: Path
    ranks: int = 1
    gpus: int = 0
    rank: int = 0
    beside: Mapping[str, Beside] = {}
    gpu_bytes: int = 0


class Need(NamedTuple):
    """What a process needs at least, beside an empty one: of the host, of its GPUs, for what.

    `parts` are the bytes by what they are for; `unknown` says what could not be counted, `lacks`
    what does not fit into what the role's own table leaves it.
    """

    host_bytes: int = 0
    gpu_bytes: int = 0
    parts: Mapping[str, int] = {}
    unknown: str = ""
    lacks: str = ""


class Clock:
    """Monotonic time. A virtual clock replaces `now`; sleeping goes through the loop."""

    def __init__(self, now: Callable[[], float]):
        self.now = now

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop's clock."""
        await asyncio.sleep(seconds)


class World(Protocol):
    """What an actor's surroundings do for it. `cell.py` implements it."""

    clock: Clock
    rng: random.Random
    waits: Waits

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]: ...
    async def compute(self, fn: Callable[..., T], *args: Any, label: str) -> T: ...
    def observe(self, kind: str, row: dict[str, Any]) -> None: ...
    def progress(self, text: str) -> None: ...
    def finish(self, text: str) -> None: ...
    async def arena(self, name: str, slot_bytes: int, slots: int) -> str: ...
    async def watch(self, address: Address | str) -> Death: ...


class Actor(Generic[C]):
    """Base of all roles: `class Rewarder(Actor[RewarderConfig])`.

    Class attributes: `shared` lists the shared records the role uses; `restart` says how often an
    instance may be restarted; `mailbox` bounds what may wait for its handlers. `progress_s` is how
    long an instance that has work, or waits, may make no progress (end no item, answer, or compute
    call, and say nothing by `self.progress`) before the run reports who waits for whom; 0: for
    ever. With `progress_then = "restart"` it is also killed and restarted, unless it waits for
    others.
    """

    Config: ClassVar[type[Config]] = Config
    shared: ClassVar[tuple[type[Shared], ...]] = ()
    restart: ClassVar[Restart] = Restart()
    mailbox: ClassVar[Mailbox] = Mailbox()
    progress_s: ClassVar[float] = 0.0
    progress_then: ClassVar[Literal["report", "restart"]] = "report"

    config: C
    address: Address
    run_info: RunInfo
    gang: Gang  # the ranks of this member
    policy_name: str = ""  # of the policy that a topology says this role works on
    clock: Clock
    rng: random.Random
    _world: World
    _shared: dict[type[Shared], Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in typing.get_args(base):
                if isinstance(argument, type) and issubclass(argument, Config):
                    cls.Config = argument

    # ------------------------------------------------------------ life, for subclasses

    @classmethod
    def preload(cls) -> None:
        """Import what is heavy, before the process joins the run."""

    @classmethod
    def probe(cls, config: C, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse what this process cannot do; raise ConfigError.

        Called in the role's own process, on its own host, after `preload` and before it joins: what
        `check` cannot see from outside is told at once, whatever roles that start earlier do first.
        """

    @classmethod
    def check(cls, config: C, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse a configuration that cannot work (`realnet check`); raise ConfigError."""

    @classmethod
    def estimate(cls, config: C, shared: dict[type[Shared], Any]) -> int:
        """Return the bytes that an instance needs at least, beside an empty process of realnet.

        `realnet plan` adds them up, so that a run too large for its machine is seen before.
        """
        return 0

    @classmethod
    def fit(
        cls, config: C, count: int, shared: dict[type[Shared], Any], beside: Mapping[str, Beside]
    ) -> C:
        """Return the table with what it leaves to follow from others; `count` are its members.

        Called once, when a plan is made; `beside` are the roles of its policy, itself among them.
        """
        return config

    @classmethod
    def remarks(
        cls, config: C, shared: dict[type[Shared], Any], beside: Mapping[str, Beside]
    ) -> Sequence[str]:
        """Return sentences for `realnet plan`: what this role will do with those beside it."""
        return ()

    @classmethod
    def needs(cls, config: C, shared: dict[type[Shared], Any], place: Place) -> Need:
        """Return what a process needs, of GPUs as well; without this, `estimate` of the host.

        Called without loading anything: a model's config may be read, its weights may not.
        """
        return Need(cls.estimate(config, shared))

    async def start(self) -> None:
        """Open what the role needs. Ports work; the others learn of it when this returns."""

    async def run(self) -> None:
        """Main loop, if there is one. An exception here is this instance's failure."""

    async def drain(self) -> None:
        """Asked to stop gracefully: finish what must be finished. Ports still work."""

    async def stop(self) -> None:
        """Release what `start` opened."""

    # ------------------------------------------------------------ world

    @property
    def rank(self) -> int:
        """Which process of its gang this is; 0 leads, and is the one that wires end at."""
        return self.gang.rank

    @property
    def num_ranks(self) -> int:
        """How many processes its gang has."""
        return self.gang.num_ranks

    def one(self, record: type[S]) -> S:
        """Return the shared record of this type ([policy], [run])."""
        return typing.cast(S, self._shared_value(record))

    def all(self, record: type[S]) -> dict[str, S]:
        """Return the shared records of this type by name ([tasks.X])."""
        return typing.cast(dict[str, S], self._shared_value(record))

    def _shared_value(self, record: type[Shared]) -> Any:
        if record not in self._shared:
            raise ConfigError(
                f"{type(self).__name__} uses {record.__name__} but does not list it in `shared`; "
                f"it lists: {listed(r.__name__ for r in self.shared)}"
            )
        return self._shared[record]

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a coroutine beside the handlers. Its failure is the actor's failure."""
        return self._world.spawn(work, name)

    async def compute(self, fn: Callable[..., T], *args: Any, label: str = "compute") -> T:
        """Run blocking `fn` in the actor's one compute thread; the loop stays live meanwhile."""
        return await self._world.compute(fn, *args, label=label)

    def metrics(self, *, step: int | None = None, **values: float) -> None:
        """Write one row of metrics.jsonl."""
        self._world.observe("metrics", {"step": step, **values} if step is not None else values)

    def event(self, text: str, **fields: Any) -> None:
        """Write one line of events.jsonl; it is shown on the screen as well."""
        self._world.observe("event", {"text": text, **fields})

    def progress(self, text: str) -> None:
        """Say what this instance is doing now; that is progress. Any thread may say it."""
        self._world.progress(text)

    def finish(self, text: str) -> None:
        """End the whole run, normally, with this text."""
        self._world.finish(text)

    async def arena(self, name: str, *, slot_bytes: int, slots: int) -> str:
        """Return the path of a shared memory file of `slots * slot_bytes` bytes on this host.

        The host's agent owns it: it survives this instance and vanishes with the run.
        """
        return await self._world.arena(name, slot_bytes, slots)

    async def watch(self, address: Address | str) -> Death:
        """Wait until a life of another actor is over, and return which one and why.

        `address` ("generator/0", or with an incarnation) without one means the present life. Heard
        exactly once, and at once if it is over already or there is none. Run it beside the rest:
        `self.spawn(self._mourn(), name="watch")`. Raises ConfigError if it is no address.
        """
        return await self._world.watch(address)

    @asynccontextmanager
    async def waiting(self, on: str) -> AsyncIterator[None]:
        """Name a wait: `async with self.waiting("room for tickets"): ...`."""
        with self._world.waits.on(str(self.address), on):
            yield
