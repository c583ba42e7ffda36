"""The framework's own part of a role's table, and the table of a pool.

What the reserved words mean, what they may hold and what they default to: `check`, `explain`,
`schema` and the plan all read it from here. Knows nothing of role classes or wires. Called by
`roles.py`, `schema.py` and `explain.py`.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from realnet.config import Bytes, Config, Seconds, doc, parse_seconds
from realnet.errors import ConfigError
from realnet.supervision import Restart
from realnet.topology.plan import PoolPlan

MOST_PROCESSES = 10_000  # of a role
_PERIOD = re.compile(r"\s*(\d+)\s+per\s+(\w[\w. ]*)")


class RestartTable(Config):
    """`restart = { times = 5, per = "1min", then = "drop" }`."""

    times: Annotated[int, doc("how often an instance may be started again", ge=0)] = 5
    per: Annotated[Seconds, doc("in this time")] = Seconds(60)
    then: Annotated[
        Literal["end", "drop"],
        doc(
            "when that is used up: end the run, or go on without this member while others are left"
        ),
    ] = "end"
    floor: Annotated[int, doc('with "drop": how many members must be left', ge=1)] = 1


class ProgressTable(Config):
    """`progress = { budget = "2min", then = "restart" }`."""

    budget: Annotated[Seconds, doc("how long it may make no progress; 0: its class's")] = Seconds(0)
    then: Annotated[
        Literal["report", "restart"], doc("what is done then; it is reported either way")
    ] = "report"


class RoleTable(Config):
    """The reserved words of `[roles.X]`; every other key belongs to the role's class."""

    kind: Annotated[
        str,
        doc('the role\'s class: a registered name, "pkg.mod:Class" or "file.py:Class"'),
    ] = ""
    policy: Annotated[str, doc("the [policies.X] it works on; not needed when there is one")] = ""
    count: Annotated[int, doc("independent members, each a process of its own", ge=1)] = 1
    max: Annotated[
        int, doc("members that an elastic role may grow to; 0: it stays at count", ge=0)
    ] = 0
    ranks: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc("processes of each member, a gang: started and restarted as one; 1 without a mesh"),
    ] = None
    mesh: Annotated[
        dict[str, Annotated[int, msgspec.Meta(ge=1)]],
        doc("a gang by its dimensions, { dp = 2, tp = 2 }; their product is ranks"),
    ] = {}
    cpus: Annotated[int, doc("cores of each process", ge=1)] = 1
    gpus: Annotated[int, doc("GPUs of each process", ge=0)] = 0
    memory: Annotated[Bytes, doc('most memory of each process, "4GiB"; 0: no limit')] = Bytes(0)
    place: Annotated[str, doc("another role, in whose processes it lives")] = ""
    pool: Annotated[str, doc("the [pools.X] whose machines run it")] = ""
    near: Annotated[
        str, doc("a role on whose machine it lives, if there is room (runs over several machines)")
    ] = ""
    restart: Annotated[
        str | Literal[False] | RestartTable | None,
        doc(
            'how often an instance may be started again, "5 per 1min"; false: never; a table '
            '{ times, per, then = "drop" } gives up one member of a pool instead of the run'
        ),
    ] = None
    progress: Annotated[
        Seconds | ProgressTable,
        doc(
            'how long it may make no progress before that is reported, "2min"; 0: its class\'s; a '
            'table { budget, then = "restart" } also ends and restarts it'
        ),
    ] = Seconds(0)
    env: Annotated[
        dict[str, str | int | float | bool], doc("environment variables of its processes")
    ] = {}
    secrets: Annotated[
        list[str],
        doc("environment variables of the launcher that only its processes get; names, no values"),
    ] = []
    spawn: Annotated[
        list[str],
        doc('words before the command of each process: ["numactl", "--membind=0"]'),
    ] = []

    def problems(self) -> list[tuple[str, str]]:
        """Return (key, complaint) for values that contradict each other or mean nothing."""
        found = []
        product = math.prod(self.mesh.values())
        if self.mesh and self.ranks not in (None, product):
            dims = " x ".join(f"{n} {d}" for n, d in self.mesh.items())
            found.append(
                ("mesh", f"{dims} makes {product} ranks, but ranks = {self.ranks}; leave one out")
            )
        processes = max(self.count, self.max) * self.gang
        if processes > MOST_PROCESSES:
            key = "max" if self.max > self.count else "count"
            found.append((key, f"{processes} processes; a role has at most {MOST_PROCESSES}"))
        if self.max and self.max < self.count:
            found.append(("max", f"less than count = {self.count}: write at least that"))
        for name in self.secrets:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                found.append(
                    ("secrets", "write names of environment variables, never their values")
                )
                break  # the text may be a secret: it is not repeated here
        for name in sorted(set(self.secrets) & set(self.env)):
            found.append(("env", f"{name} is in secrets as well; leave one out"))
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                found.append(("env", f"{name!r} is no name of an environment variable"))
        if "CUDA_VISIBLE_DEVICES" in self.env:
            found.append(
                (
                    "env",
                    "CUDA_VISIBLE_DEVICES is given out by the launcher, each process its own slice "
                    "of what the host has: write gpus = N instead",
                )
            )
        if self.spawn and not self.pool and shutil.which(self.spawn[0]) is None:
            found.append(("spawn", f'there is no program "{self.spawn[0]}" on this machine'))
        return found

    @property
    def gang(self) -> int:
        """Processes of each member."""
        return math.prod(self.mesh.values()) if self.mesh else self.ranks or 1

    def patience(self, of_class: Restart) -> Restart:
        """Return how often it may be restarted, given its class's own. Raises ValueError."""
        if self.restart is None:
            return of_class
        if self.restart is False:
            return Restart(0, 60.0)
        if isinstance(self.restart, RestartTable):
            return Restart(
                *(self.restart.times, float(self.restart.per), self.restart.then),
                self.restart.floor,
            )
        match = _PERIOD.fullmatch(self.restart)
        if match is None:
            raise ValueError('write "5 per 1min", or false for never')
        return Restart(int(match[1]), parse_seconds(match[2]))

    def progress_budget(self) -> tuple[float, Literal["", "report", "restart"]]:
        """Return the seconds and what follows; 0 and "" are for its class to say."""
        if isinstance(self.progress, ProgressTable):
            return float(self.progress.budget), self.progress.then
        return float(self.progress), ""


RESERVED = tuple(f.encode_name for f in msgspec.structs.fields(RoleTable))


class PoolTable(Config):
    """`[pools.X]`: machines with a name. On one machine every pool is that machine."""

    hosts: Annotated[
        list[str], doc("names of the machines; empty: the machine of the launcher")
    ] = []
    cpus: Annotated[int, doc("cores of each host; 0: not said, so not checked", ge=0)] = 0
    gpus: Annotated[int, doc("GPUs of each host; 0: not said, so not checked", ge=0)] = 0
    memory: Annotated[Bytes, doc('memory of each host, "64GiB"; 0: not said')] = Bytes(0)
    nodes: Annotated[
        int, doc("how many of the machines of an allocation are its own; 0: as it comes", ge=0)
    ] = 0
    gpu_memory: Annotated[
        Bytes, doc('memory of each GPU, "80GB"; 0: not said, so `plan` does not compare')
    ] = Bytes(0)

    def plan(self, name: str) -> PoolPlan:
        """Return it as a plan has it."""
        hosts = tuple(self.hosts)
        sizes = (int(self.memory), self.nodes, int(self.gpu_memory))
        return PoolPlan(name, hosts, self.cpus, self.gpus, *sizes)


def split_table(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the reserved words of a role's table, and the keys of its class."""
    own = {k: v for k, v in table.items() if k in RESERVED}
    return own, {k: v for k, v in table.items() if k not in RESERVED}


def check_name(name: str, where: str) -> None:
    """Refuse a role name that cannot stand in an address or a file name. Raises ConfigError."""
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        raise ConfigError(
            f"{where}: {name!r} cannot name a role: letters, digits, _ and -, a letter first"
        )
