"""Ports as a role declares them: Inlet, Outlet, Ask, StateIn, StateOut, and `handles`.

Written in a class body, they say what a role takes, gives, asks and shows, by type; a topology
connects them. On an instance the same name is the live end (`live/`).

Knows nothing of topologies, live delivery or sockets. Role authors use it; `topology/` reads the
declarations to check wires.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, overload

from realnet.custody import WINDOW_BYTES
from realnet.errors import ConfigError
from realnet.message import Message, Request, StreamRequest

if TYPE_CHECKING:
    from realnet.actor import Actor
    from realnet.live import LiveAsk, LiveInlet, LiveOutlet, LiveStateIn, LiveStateOut

M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[..., Any])
HANDLES = "__realnet_handles__"
LEASE_S = 600.0


class Port:
    """Base of the declarations.

    `joined_by="policy"`: wired without being named, to every complementary port of one type among
    roles of the same policy.
    """

    wire: str = ""

    def __init__(self, *types: type[Message], joined_by: Literal["", "policy"] = ""):
        self.types = types
        self.joined_by = joined_by
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(t.__name__ for t in self.types)})"

    def _live(self, actor: Actor[Any]) -> Any:
        # A live port lies in the instance itself, before this.
        raise AttributeError(
            f"{type(actor).__name__}.{self.name} is a port: it is live once the role is "
            "started by a run, or by realnet.testing"
        )


class Bounds(NamedTuple):
    """What an inlet lets in: items, bytes, and how long one may show no progress (seconds)."""

    window: int
    window_bytes: int = WINDOW_BYTES
    lease_s: float = LEASE_S


class Inlet(Port, Generic[M]):
    """Takes work from a pool's share wire.

    `window` bounds the items in custody here (accepted and not finished), so it is also how many
    handler calls run at once; `window_bytes` bounds the bytes that they hold (one item may be
    larger: it comes when nothing else is in hand). An item on which its handler makes no progress
    for `lease_s` seconds goes to another member of the pool, if there is one; 0 means never.
    Sending what it causes is progress, so is `Delivery.progress`, `Actor.progress` and
    `Actor.compute`. A string names the config field that holds the number.
    """

    wire = "share"

    def __init__(
        self,
        kind: type[M],
        *,
        window: int | str = 64,
        window_bytes: int | str = WINDOW_BYTES,
        lease_s: float | str = LEASE_S,
        joined_by: Literal["", "policy"] = "",
    ):
        super().__init__(kind, joined_by=joined_by)
        self.window = window
        self.window_bytes = window_bytes
        self.lease_s = lease_s
        self.handler_name = ""

    def bounds(self, config: Any) -> Bounds:
        """Return the numbers, read from a role's config where it holds them."""

        def number(written: Any) -> Any:
            return getattr(config, written) if isinstance(written, str) else written

        window, num_bytes = int(number(self.window)), int(number(self.window_bytes))
        lease_s = float(number(self.lease_s))
        if window < 1 or num_bytes < 1 or lease_s < 0:
            raise ConfigError(
                f"the inlet {self.name} has window = {window}, window_bytes = {num_bytes}, "
                f"lease_s = {lease_s}: it needs room for one item of one byte, and no negative time"
            )
        return Bounds(window, num_bytes, lease_s)

    def handler(self, method: F) -> F:
        """Mark `async def method(self, item: Delivery[M]) -> None` as what takes the items."""
        self.handler_name = method.__name__
        return method

    @overload
    def __get__(self, actor: None, owner: type) -> Inlet[M]: ...
    @overload
    def __get__(self, actor: Actor[Any], owner: type) -> LiveInlet[M]: ...
    def __get__(self, actor: Actor[Any] | None, owner: type) -> Any:
        return self if actor is None else self._live(actor)


class Outlet(Port, Generic[M]):
    """Gives work to a pool over a share wire."""

    wire = "share"

    def __init__(self, kind: type[M], *, joined_by: Literal["", "policy"] = ""):
        super().__init__(kind, joined_by=joined_by)

    @overload
    def __get__(self, actor: None, owner: type) -> Outlet[M]: ...
    @overload
    def __get__(self, actor: Actor[Any], owner: type) -> LiveOutlet[M]: ...
    def __get__(self, actor: Actor[Any] | None, owner: type) -> Any:
        return self if actor is None else self._live(actor)


class Ask(Port):
    """Asks members of a pool; the request's type says what comes back.

    `prefer="local"` takes a member in the same process while there is one.
    """

    wire = "ask"

    def __init__(
        self,
        *requests: type[Request[Any]] | type[StreamRequest[Any]],
        prefer: Literal["", "local"] = "",
        joined_by: Literal["", "policy"] = "",
    ):
        super().__init__(*requests, joined_by=joined_by)
        self.prefer = prefer

    @overload
    def __get__(self, actor: None, owner: type) -> Ask: ...
    @overload
    def __get__(self, actor: Actor[Any], owner: type) -> LiveAsk: ...
    def __get__(self, actor: Actor[Any] | None, owner: type) -> Any:
        return self if actor is None else self._live(actor)


class StateIn(Port, Generic[M]):
    """Follows the latest value that another role shows.

    `optional`: a topology may leave it unwired; its value is then always None.
    """

    wire = "state"

    def __init__(
        self,
        kind: type[M],
        *,
        joined_by: Literal["", "policy"] = "",
        optional: bool = False,
    ):
        super().__init__(kind, joined_by=joined_by)
        self.optional = optional

    @overload
    def __get__(self, actor: None, owner: type) -> StateIn[M]: ...
    @overload
    def __get__(self, actor: Actor[Any], owner: type) -> LiveStateIn[M]: ...
    def __get__(self, actor: Actor[Any] | None, owner: type) -> Any:
        return self if actor is None else self._live(actor)


class StateOut(Port, Generic[M]):
    """Shows the latest value of something small."""

    wire = "state"

    def __init__(self, kind: type[M], *, joined_by: Literal["", "policy"] = ""):
        super().__init__(kind, joined_by=joined_by)

    @overload
    def __get__(self, actor: None, owner: type) -> StateOut[M]: ...
    @overload
    def __get__(self, actor: Actor[Any], owner: type) -> LiveStateOut[M]: ...
    def __get__(self, actor: Actor[Any] | None, owner: type) -> Any:
        return self if actor is None else self._live(actor)


def handles(method: F) -> F:
    """Mark a method as what answers a request type, read from its annotation.

    `async def m(self, request: SomeRequest) -> Reply`, or an async generator for a StreamRequest;
    a method for a plain Message takes what is told and replies nothing.
    """
    setattr(method, HANDLES, True)
    return method


def declared_ports(cls: type) -> dict[str, Port]:
    """Return the ports of a role class by name, inherited ones included."""
    ports: dict[str, Port] = {}
    for base in reversed(cls.__mro__):
        ports.update({n: p for n, p in vars(base).items() if isinstance(p, Port)})
    return ports


def declared_handlers(cls: type) -> dict[type[Message], str]:
    """Return request type -> method name for every `@handles` method of a role class."""
    known: Hashable = cls  # a class always is; mypy is not sure of a generic one
    return _declared_handlers(known)


@functools.cache  # reading hints costs more than the rest of making an actor
def _declared_handlers(cls: Any) -> dict[type[Message], str]:
    handlers: dict[type[Message], str] = {}
    for name in dir(cls):
        method = getattr(cls, name, None)
        if not getattr(method, HANDLES, False):
            continue
        hints = typing.get_type_hints(method)
        hints.pop("return", None)
        request = next(iter(hints.values()), None)
        if not (isinstance(request, type) and issubclass(request, Message)):
            raise TypeError(
                f"{cls.__name__}.{name}: @handles needs a parameter typed with a Request (or a "
                f"Message that wants no reply), got {request!r}"
            )
        handlers[request] = name
    return handlers


Handler = Callable[..., Awaitable[Any]]
