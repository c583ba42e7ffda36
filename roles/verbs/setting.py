"""What a topology, or the folder of a run, says to a verb: its policy, tasks and role tables.

Knows plans and tables. Knows nothing of models or of the command line. Called by the verbs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from realnet.cli_runs import find_run
from realnet.config import Config, Shared, read_table
from realnet.errors import ConfigError, listed, nearest
from realnet.roles.tables import Policy, Task
from realnet.topology import Plan, read_plan

C = TypeVar("C", bound=Config)
S = TypeVar("S", bound=Shared)
_STEP = re.compile(r"(?P<run>.+)@(?P<step>\d+)")


@dataclass(frozen=True)
class Setting:
    """One policy of a plan, the tasks beside it, and the folder that paths are relative to."""

    plan: Plan
    policy_name: str
    policy: Policy
    tasks: dict[str, Task]

    @property
    def base(self) -> Path:
        """Return the folder of the topology file."""
        return Path(self.plan.base)

    def table(self, cls: type[C], kind: str) -> C:
        """Return the table of this policy's role of a kind ("trainer"); its defaults without one.

        A kind of the user's own counts by the name of its class.
        """
        for role in self.plan.roles.values():
            if role.kind.rpartition(":")[2].lower() == kind and role.policy in (
                "",
                self.policy_name,
            ):
                return _known_part(cls, role.config, f"[roles.{role.name}]")
        return cls()

    def chosen(self, wanted: tuple[str, ...], use: str) -> list[str]:
        """Return the tasks asked for by name, or else all of one use. Raises ConfigError."""
        for name in wanted:
            if name not in self.tasks:
                raise ConfigError(
                    f"no task {name!r}.{nearest(name, self.tasks)} There are: {listed(self.tasks)}"
                )
        found = list(wanted) or sorted(n for n, t in self.tasks.items() if t.use == use)
        if not found:
            raise ConfigError(f'no [tasks.X] with use = "{use}". There are: {listed(self.tasks)}')
        return found


def setting_of(plan: Plan, policy: str = "") -> Setting:
    """Return what a plan says of one policy. Raises ConfigError when it is not clear which."""
    policies = plan.shared.get("policy", {})
    if not policies:
        raise ConfigError(f"{plan.topology}: it has no [policy]: there is no model to try")
    if policy not in policies:
        if policy:
            raise ConfigError(
                f"no policy {policy!r}.{nearest(policy, policies)} There are: {listed(policies)}"
            )
        if len(policies) > 1:
            raise ConfigError(f"several policies: write --policy with one of {listed(policies)}")
        policy = next(iter(policies))
    tasks = plan.shared.get("tasks", {})
    return Setting(
        plan,
        policy,
        _known_part(Policy, policies[policy], "[policy]"),
        {name: _known_part(Task, table, f"[tasks.{name}]") for name, table in tasks.items()},
    )


def open_run(spec: str | None, runs: Path) -> tuple[Path, Plan, int | None]:
    """Return folder, plan and step of "RUN" or "RUN@step"; without it the newest run's.

    Raises RunFolderError naming the runs there are.
    """
    match = _STEP.fullmatch(spec or "")
    folder = find_run(runs, match["run"] if match else spec)
    return folder, read_plan(folder), int(match["step"]) if match else None


def _known_part(cls: type[C], table: dict[str, object], where: str) -> C:
    names = {field.encode_name for field in msgspec.structs.fields(cls)}
    return read_table(cls, {k: v for k, v in table.items() if k in names}, where)
