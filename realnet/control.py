"""The records between the head of a run and its members.

A member is told a slot and reads everything else from the run's folder: no record names code to
run. Knows nothing of how either end works.
"""

from __future__ import annotations

import msgspec

from realnet.message import Message, Nothing, Request
from realnet.topology.plan import WirePlan

HEAD = "head/0~0"
HEAD_SLOT = "head/0~0"


def member_of(slot: str) -> str:
    """Return the full address of the member actor of a slot's incarnation ("generator/0~1")."""
    name, _, incarnation = slot.partition("~")
    return f"@{name}/0~{incarnation}"


class Peer(Message):
    """One process of the run. `slot` has its incarnation; so have `actors`.

    A `guest` is of no slot of the plan, and may get and give up actors while it is there: of its
    actors those in `coming` are not up yet, and `wires` are its own. One without an endpoint calls
    others and cannot be called.
    """

    slot: str
    endpoint: str
    actors: tuple[str, ...]
    up: bool = False
    guest: bool = False
    coming: tuple[str, ...] = ()
    wires: tuple[WirePlan, ...] = ()


class Joined(Message):
    """Who else is there. `refused`: why this process cannot take part; it ends then."""

    peers: tuple[Peer, ...]
    refused: str = ""


class Join(Request[Joined]):
    """A process has loaded its code and wants to take part.

    `schemas`: the digest of each record on its wires. `budgets`: for each role in it, how long it
    may make no progress (seconds; 0: no limit), and what follows ("report" or "restart"). `clock_s`
    is its monotonic clock now: that of another host began at another time. `clock` names it.
    """

    peer: Peer
    pid: int
    schemas: dict[str, str] = {}
    budgets: dict[str, tuple[float, str]] = {}
    clock_s: float = 0.0
    clock: str = ""


class PeerJoined(Message):
    """Another process can be reached."""

    peer: Peer


class PeerChanged(Message):
    """A guest has come, or has other actors or wires than before."""

    peer: Peer


class PeerUp(Message):
    """The actors of a process are up: wire them."""

    slot: str


class PeerDown(Message):
    """This incarnation is dead."""

    slot: str
    why: str


class Begin(Request[Nothing]):
    """Start your actors; reply when they are up."""


class StopActors(Request[Nothing]):
    """Stop your actors of this role; `graceful` drains them first."""

    role: str
    graceful: bool


class Leave(Message):
    """End the process."""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Compute was busy from one monotonic second to another."""

    start_s: float
    end_s: float
    label: str


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """One port in figures: what it has brought to an end, what waits in it, what is under way.

    Inlet: items finished, -, in custody. Outlet: items offered, that nobody took, leased. The
    handlers (`port` is ""): calls answered, -, being answered. All asks together ("?"): calls that
    were answered, -, open.
    """

    port: str
    done: int
    waiting: int = 0
    held: int = 0


class Doing(Message):
    """What one actor is doing: its own words, its waits (on what, for how many seconds, on whom),
    when it computed; how many things it has brought to an end, and whether it has work."""

    actor: str
    text: str
    waits: tuple[tuple[str, float, tuple[str, ...]], ...]
    spans: tuple[Span, ...]
    ended: int = 0
    has_work: bool = False
    figures: tuple[Figures, ...] = ()


class Beat(Message):
    """Sent by the member's loop: the loop is alive. `lag_s` is how late this beat is."""

    slot: str
    lag_s: float
    doing: tuple[Doing, ...]


class Observation(Message):
    """One row for metrics.jsonl or events.jsonl, as JSON text."""

    actor: str
    kind: str
    time_s: float
    row: str


class Observed(Message):
    """Rows that actors reported."""

    rows: tuple[Observation, ...]


class Failed(Message):
    """An actor raised. `fatal`: a restart would end the same way."""

    slot: str
    actor: str
    text: str
    trace: str
    fatal: bool


class Finish(Message):
    """An actor says that the run has reached its end."""

    actor: str
    text: str


class ArenaOpened(Message):
    """Where the shared memory is."""

    path: str


class OpenArena(Request[ArenaOpened]):
    """An actor wants shared memory on its host."""

    name: str
    num_bytes: int
