"""The records between a guest and the desk of a run's head.

Knows nothing of how either end works. What a guest is told of the plan is data: no record names
code to run.
"""

from __future__ import annotations

from realnet.control import Doing, Peer
from realnet.message import Message, Nothing, Request
from realnet.topology.plan import EndsPlan

DESK = "head/1~0"


class Entered(Message):
    """Where the guest is now: the plan as JSON, whoever else is there, the public keys of slots.

    `refused`: why it may not come in.
    """

    refused: str = ""
    plan: str = ""
    peers: tuple[Peer, ...] = ()
    public: dict[str, str] = {}


class Enter(Request[Entered]):
    """A process of somebody else's wants to take part. `place` is its host and pid namespace."""

    slot: str
    endpoint: str
    pid: int = 0
    place: str = ""


class Given(Message):
    """What was asked for, or why not. `actor` is the full address of the one to host."""

    refused: str = ""
    actor: str = ""


class Wire(Request[Given]):
    """Wire an actor of the guest: its ports, and for each the ends in the run ("role.port")."""

    slot: str
    actor: str
    ends: EndsPlan
    wires: dict[str, tuple[str, ...]]


class Serve(Request[Given]):
    """Let the guest host one more member of an elastic role; `ends` are those of its class."""

    slot: str
    role: str
    ends: EndsPlan


class Ready(Request[Given]):
    """An actor of the guest has started: the others may talk to it."""

    slot: str
    actor: str


class Remove(Request[Given]):
    """An actor of the guest has ended."""

    slot: str
    actor: str
    why: str


class Depart(Request[Nothing]):
    """The guest leaves; after the reply nobody sends it anything."""

    slot: str


class GuestBeat(Request[Nothing]):
    """The guest's loop is alive, and this is what its actors do."""

    slot: str
    doing: tuple[Doing, ...]


class Expelled(Message):
    """The guest is put out; `why` is for people."""

    why: str
