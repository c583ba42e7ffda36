"""The role tables of one topology, read: their classes, configs and what the framework makes of
the reserved words. Every mistake is collected.

Knows nothing of shared tables, wires or processes. Called by `resolve.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from realnet.actor import Actor
from realnet.config import Config, read_table, to_plain
from realnet.errors import ConfigError, listed, nearest
from realnet.supervision import Restart
from realnet.topology.kinds import load_kind
from realnet.topology.plan import PoolPlan, RolePlan
from realnet.topology.roletable import RESERVED, PoolTable, RoleTable, check_name, split_table
from realnet.topology.source import Source


class Roles:
    """What was read of the roles so far, and what was wrong with them.

    A role with a mistake is in `classes` as soon as its class is known, so that its wires can be
    checked as well; it is in `plans` and `configs` only when its table is in order.
    """

    def __init__(self, source: Source):
        self.source = source
        self.problems: list[str] = []
        self.classes: dict[str, type[Actor[Any]]] = {}
        self.plans: dict[str, RolePlan] = {}
        self.configs: dict[str, Config] = {}
        self.policy_of: dict[str, str] = {}

    def complain(self, error: ConfigError) -> None:
        """Keep every line of an error."""
        self.problems.extend(str(error).splitlines())

    def read(self, policies: Mapping[str, Any]) -> None:
        """Find the class of every [roles.X], then read its table."""
        tables = self.source.tables.get("roles", {})
        for name, table in tables.items():
            where = self.source.where("roles", name)
            try:
                check_name(name, where)
                kind = str(table.get("kind") or name)
                self.classes[name] = load_kind(kind, self.source.base, where)
            except ConfigError as error:
                self.complain(error)
        elsewhere = self._elsewhere()
        for name, table in tables.items():
            self._read_role(name, table, policies, elsewhere)
        self._check_places()

    def _elsewhere(self) -> dict[str, str]:
        """Return key -> the table outside [roles.X] that it belongs in."""
        keys: dict[str, str] = {}
        for cls in self.classes.values():
            for record in cls.shared:
                table = f"[{record.table}.X]" if record.many else f"[{record.table}]"
                for known in msgspec.structs.fields(record):
                    keys.setdefault(known.encode_name, table)
        return keys

    def _read_role(
        self,
        name: str,
        table: Mapping[str, Any],
        policies: Mapping[str, Any],
        elsewhere: Mapping[str, str],
    ) -> None:
        where = self.source.where("roles", name)
        own, rest = split_table(table)
        framework: RoleTable | None = None
        config: Config | None = None
        before = len(self.problems)
        try:
            framework = read_table(RoleTable, own, where)
        except ConfigError as error:
            self.complain(error)
            own = {k: v for k, v in own.items() if k == "restart" and isinstance(v, str)}
        try:  # also when other words are wrong: all mistakes come at once
            patience = RoleTable(restart=own.get("restart")) if framework is None else framework
            patience.patience(Restart())
        except ValueError as error:
            self.problems.append(f"{where}.restart = {own['restart']!r}: {error}")
        cls = self.classes.get(name)
        if cls is not None:
            try:
                config = read_table(cls.Config, rest, where, RESERVED, elsewhere)
            except ConfigError as error:
                self.complain(error)
        self.policy_of[name] = self._policy(table.get("policy"), policies, where)
        if framework is None:
            return
        for key, text in framework.problems():
            self.problems.append(f"{where}.{key}: {text}")
        self._check_pool(framework.pool, where)
        self._check_near(framework.near, where)
        if config is None or cls is None:
            return
        if len(self.problems) > before:
            return
        restart = framework.patience(cls.restart)
        progress_s, progress_then = framework.progress_budget()
        self.configs[name] = config
        self.plans[name] = RolePlan(
            name=name,
            kind=framework.kind or name,
            count=framework.count,
            config=to_plain(config),
            policy=self.policy_of[name],
            place=framework.place,
            cpus=framework.cpus,
            gpus=framework.gpus,
            env={k: _environment(v) for k, v in framework.env.items()},
            restarts=restart.times,
            restart_per_s=restart.per_s,
            restart_then=restart.then,
            restart_floor=restart.floor,
            ranks=framework.gang,
            mesh=framework.mesh,
            max=framework.max,
            memory_bytes=int(framework.memory),
            pool=framework.pool,
            progress_s=progress_s,
            progress_then=progress_then,
            secrets=tuple(framework.secrets),
            spawn=tuple(framework.spawn),
            near=framework.near,
        )

    def _policy(self, written: Any, policies: Mapping[str, Any], where: str) -> str:
        policy = str(written or (next(iter(policies)) if len(policies) == 1 else ""))
        if policy and policy not in policies:
            self.problems.append(
                f'{where}.policy = "{policy}": no such policy.{nearest(policy, policies)} '
                f"Policies: {listed(policies)}"
            )
        return policy

    def _check_pool(self, pool: str, where: str) -> None:
        pools = self.source.tables.get("pools", {})
        if pool and pool not in pools:
            self.problems.append(
                f'{where}.pool = "{pool}": no such pool.{nearest(pool, pools)} '
                f"Pools: {listed(pools)}; write one as [pools.{pool}]"
            )

    def _check_near(self, near: str, where: str) -> None:
        roles = self.source.tables.get("roles", {})
        if near and near not in roles:
            self.problems.append(
                f'{where}.near = "{near}": no such role.{nearest(near, roles)} '
                f"Roles: {listed(roles)}"
            )

    def _check_places(self) -> None:
        tables = self.source.tables.get("roles", {})
        for name, table in tables.items():
            place = table.get("place")
            if not isinstance(place, str) or not place:
                continue
            where = self.source.where("roles", name)
            others = [n for n, t in tables.items() if n != name and not t.get("place")]
            if place in tables and place != name and place not in others:
                self.problems.append(
                    f'{where}.place = "{place}": that role lives with another itself; place it '
                    f"where that one lives. Roles with processes: {listed(others)}"
                )
            elif place not in others:
                self.problems.append(
                    f'{where}.place = "{place}": no role with processes of its own is called '
                    f"that.{nearest(place, others)} Such roles: {listed(others)}"
                )
            for key in ("count", "ranks", "mesh", "max"):
                if key in table:
                    self.problems.append(
                        f"{where}.{key}: it lives with {place} and has as many members"
                    )
            for key in ("cpus", "gpus", "memory", "pool", "near", "spawn"):
                if key in table:
                    self.problems.append(
                        f"{where}.{key}: it lives in the processes of {place}; write it there"
                    )

    def read_pools(self) -> dict[str, PoolPlan]:
        """Read every [pools.X]."""
        pools = {}
        for name, table in self.source.tables.get("pools", {}).items():
            try:
                read = read_table(PoolTable, table, self.source.where("pools", name))
            except ConfigError as error:
                self.complain(error)
                continue
            pools[name] = read.plan(name)
        return pools


def _environment(value: Any) -> str:
    """Return a value as an environment variable has it: true is "1", false is "0"."""
    return str(int(value)) if isinstance(value, bool) else str(value)
