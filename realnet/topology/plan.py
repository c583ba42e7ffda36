"""The plan of a run: what a topology means, with nothing left to decide.

Plain data, written to the run's folder as plan.json; every process reads it from there. Knows
nothing of how it was made (`resolve.py`) or how it is carried out (`head.py`, `member.py`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from realnet.errors import RunFolderError


class WirePlan(msgspec.Struct, frozen=True):
    """One wire: kind is share, ask or state. `to_port` of an ask is empty: handlers answer.

    `feedback` marks a share wire that closes a circle: so many messages of room are kept for it at
    the taking end, so that the circle can always move. `affinity` is a field of the message: equal
    values go to one member while it lives. `deadline_s` is an ask's default time budget; 0: none
    was written.
    """

    kind: str
    from_role: str
    from_port: str
    to_role: str
    to_port: str
    types: tuple[str, ...]
    why: str
    feedback: int = 0
    affinity: str = ""
    deadline_s: float = 0.0

    def __str__(self) -> str:
        arrow = {"share": "──▶", "ask": "──?", "state": "╌╌▶"}[self.kind]
        return f"{self.from_role} {arrow} {self.to_role}  {', '.join(self.types)}"


class EndsPlan(msgspec.Struct, frozen=True):
    """What a role can be wired by: each port with its kind ("Inlet") and records, what its handlers
    answer, and the digest of each record. For guests, who do not have the code of the role.
    """

    ports: dict[str, tuple[str, tuple[str, ...]]] = {}
    handles: tuple[str, ...] = ()
    records: dict[str, str] = {}


class PoolPlan(msgspec.Struct, frozen=True):
    """Named machines. What each host has; 0: not said, so not checked. No hosts: this machine.

    `nodes` is how many of the hosts of a run over several are its own, when it names none.
    """

    name: str
    hosts: tuple[str, ...] = ()
    cpus: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    nodes: int = 0
    gpu_memory_bytes: int = 0


class RolePlan(msgspec.Struct, frozen=True):
    """One role: `count` members, each of `ranks` processes (a gang when more than one).

    `max` is how many members an elastic role may grow to (0: `count`, it is not elastic). `mesh`
    names the dimensions of a gang; their product is `ranks`. `place` names the role in whose
    processes it lives. `cpus`, `gpus` and `memory_bytes` (0: no limit) are of one process.
    `restart_then` is what follows when its restarts are used up ("end" or "drop"). `progress_s` is
    how long it may make no progress before that is reported (0: what its class says),
    `progress_then` what is done then ("report" or "restart"; "": what its class says). `secrets`
    are names of environment variables of the launcher that only this role's processes get; no
    value is ever in a plan. `spawn` are the words before the command that starts each process.
    `near` names the role on whose host it lives, if there is room. `restart_floor` is how many
    members must be left when one is given up ("drop").
    """

    name: str
    kind: str
    count: int
    config: dict[str, Any]
    policy: str = ""
    place: str = ""
    cpus: int = 1
    gpus: int = 0
    env: dict[str, str] = {}
    restarts: int = 5
    restart_per_s: float = 60.0
    ranks: int = 1
    mesh: dict[str, int] = {}
    max: int = 0
    memory_bytes: int = 0
    pool: str = ""
    progress_s: float = 0.0
    secrets: tuple[str, ...] = ()
    spawn: tuple[str, ...] = ()
    restart_then: Literal["end", "drop"] = "end"
    progress_then: Literal["", "report", "restart"] = ""
    near: str = ""
    restart_floor: int = 1


class SlotPlan(msgspec.Struct, frozen=True):
    """One process: the roles whose instance `index` lives in it.

    The processes of a gang share the `gang` name, "trainer/0", which is also the name of its
    leader (rank 0); the others are "trainer/0.1", "trainer/0.2", ... Wires end at the leader, and
    so do the roles that are placed with it. An `elastic` one is started when a host comes for it.
    """

    name: str
    index: int
    roles: tuple[str, ...]
    after: tuple[str, ...]
    rank: int = 0
    gang: str = ""
    elastic: bool = False


class Plan(msgspec.Struct, frozen=True):
    """Everything that every process needs to know."""

    name: str
    title: str
    topology: str
    base: str
    roles: dict[str, RolePlan]
    wires: tuple[WirePlan, ...]
    slots: tuple[SlotPlan, ...]
    stop_order: tuple[tuple[str, ...], ...]
    shared: dict[str, dict[str, Any]]
    run: dict[str, Any]
    pools: dict[str, PoolPlan] = {}
    ends: dict[str, EndsPlan] = {}

    def digest(self) -> str:
        """Return a short digest; a process checks that it read the plan it was told of."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()


def write_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json into a run's folder."""
    text = msgspec.json.format(msgspec.json.encode(plan), indent=1)
    (folder / "plan.json").write_bytes(text)


def read_plan(folder: Path) -> Plan:
    """Read plan.json from a run's folder. Raises RunFolderError."""
    path = folder / "plan.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise RunFolderError(f"{folder} is not the folder of a run: it has no plan.json") from None
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{path} is damaged ({error}); start the run anew") from None
