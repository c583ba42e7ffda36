"""The records between the head of a run over several hosts and the agents of those hosts.

An agent is told slots by name and reads everything else from the run's folder: no record names
code to run. Knows nothing of how either end works.
"""

from __future__ import annotations

from realnet.message import Message, Request

HOSTS = "head/2~0"  # the actor in the head's process that agents talk to
AGENT = "+host"  # no role can be called that


def agent_slot(number: int) -> str:
    """Return the name of an agent, whose key it is: "+host/2"."""
    return f"{AGENT}/{number}"


class Check(Message):
    """One thing that was looked at before the run: what, whether it is well, and in words."""

    what: str
    well: bool
    text: str = ""


class Welcome(Message):
    """The agent may stay. `refused`: why not; it ends then, and `again` says whether another try
    may go well. The head is heard every `beat_s`; who has not heard it for `lease_s` ends."""

    digest: str
    nonce: str
    beat_s: float = 0.5
    lease_s: float = 6.0
    refused: str = ""
    again: bool = False


class Hello(Request[Welcome]):
    """An agent has started. `slot` is its name with its life, "+host/2~1764000000".

    `gpus` are the names that its host was given (indices, UUIDs). `elastic`: the role for whose
    members beyond `count` it has come; empty for a host of the run's own allocation. `wall_s` is
    its clock when it sent this. At `probe` anybody may connect, to see that it can be reached. It
    came by `way`, one of the head's endpoints, and could come by each of `ways`.
    """

    slot: str
    endpoint: str
    host: str
    address: str
    nonce: str
    attempt: int
    cpus: int
    gpus: tuple[str, ...]
    memory_bytes: int
    pid: int
    elastic: str = ""
    wall_s: float = 0.0
    checks: tuple[Check, ...] = ()
    pool: str = ""
    probe: str = ""
    way: str = ""
    ways: tuple[str, ...] = ()


class Reached(Message):
    """Which of the addresses could be reached, in their order."""

    well: tuple[bool, ...]


class Reach(Request[Reached]):
    """Try to connect to these addresses ("10.0.0.3:4711"), each within `limit_s`."""

    addresses: tuple[str, ...]
    limit_s: float = 2.0


class HostArenaOpened(Message):
    """Where the shared memory is on that host."""

    path: str


class OpenHostArena(Request[HostArenaOpened]):
    """A process of this host wants shared memory."""

    name: str
    num_bytes: int


class StartSlot(Message):
    """Start this slot with these GPUs of the host, by position. The ranks of a gang meet at
    `meet` ("10.0.0.3:23456"); empty for the first rank, whose agent says where."""

    slot: str
    incarnation: int
    gpus: tuple[int, ...] = ()
    meet: str = ""


class SlotStarted(Message):
    """The process is there. `meet`: where the ranks of its gang meet."""

    slot: str
    incarnation: int
    pid: int
    meet: str = ""


class KillSlot(Message):
    """End this life of a slot at once."""

    slot: str
    incarnation: int


class DumpSlot(Message):
    """Make this slot write its stacks."""

    slot: str


class SlotEnded(Message):
    """The process of a slot has ended, and how."""

    slot: str
    incarnation: int
    how: str
    refused: bool = False


class AgentBeat(Message):
    """The agent's loop is alive, and so are these slots."""

    slot: str
    alive: tuple[str, ...]


class HeadBeat(Message):
    """The head's loop is alive."""

    attempt: int


class Leaving(Message):
    """This host is being taken away: start nothing there, and let go of what is there."""

    slot: str
    why: str


class Left(Message):
    """The agent's last word: nothing of the run is left on its host."""

    slot: str
    why: str = ""


class ComeBy(Message):
    """Come again, by this endpoint of the head: the others of the run cannot use yours."""

    way: str


class Go(Message):
    """End all slots of this host and then yourself, with this exit code."""

    code: int
    why: str
