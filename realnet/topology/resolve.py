"""From a merged topology to a plan, with every mistake told at once.

Finds the role classes, reads their tables and the shared records they declare, wires them, lays
them out in processes, orders start and stop. The framework's part of [run] is in `runtable.py`;
everything else in [run], [policy] and [tasks.X] belongs to the records that role classes declare.

Knows nothing of what those records mean. Called by the command line and by tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from realnet.actor import Actor
from realnet.config import Config, Seconds, Shared, read_table, to_plain
from realnet.errors import ConfigError, listed, nearest
from realnet.topology.kinds import load_kind
from realnet.topology.plan import Plan, RolePlan, SlotPlan, WirePlan
from realnet.topology.runtable import RunTable, read_run_table
from realnet.topology.source import Source
from realnet.topology.wiring import ends_of, wire

RESERVED = ("kind", "count", "cpus", "gpus", "place", "restart", "env", "policy")
NOT_YET = ("ranks", "mesh", "max", "pool", "memory", "progress", "secrets", "spawn")


class _Roles:
    """The role tables of one topology, being read."""

    def __init__(self, source: Source):
        self.source = source
        self.problems: list[str] = []
        self.classes: dict[str, type[Actor[Any]]] = {}
        self.plans: dict[str, RolePlan] = {}
        self.configs: dict[str, Config] = {}

    def where(self, *path: str) -> str:
        return self.source.where(*path)


def resolve(source: Source, name: str = "") -> Plan:
    """Return the plan of a topology. Raises ConfigError with one line for each mistake."""
    roles = _Roles(source)
    tables = source.tables.get("roles", {})
    if not tables:
        raise ConfigError(f"{source.path.name}: no [roles.X]: a topology needs at least one role")
    policies = _policies(source)
    for role in tables:
        _guard(roles, _read_role, roles, role, tables, policies)
    if not roles.problems:
        _guard(roles, _check_places, roles)
    run = _guard(roles, _read_run, roles)
    shared = _guard(roles, _read_shared, roles, policies) or {}
    wires: list[WirePlan] = []
    if len(roles.classes) == len(tables):
        ends = {r: ends_of(r, roles.plans[r].policy, c) for r, c in roles.classes.items()}
        wires, problems = wire(source.tables.get("wires", {}), ends)
        roles.problems.extend(source.locate(p) for p in problems)
    if not roles.problems:
        for role, cls in roles.classes.items():
            values = shared_values(cls, roles.plans[role].policy, shared)
            before = len(roles.problems)
            _guard(roles, cls.check, roles.configs[role], values, source.base)
            roles.problems[before:] = [source.locate(p) for p in roles.problems[before:]]
    if roles.problems:
        raise ConfigError("\n".join(dict.fromkeys(roles.problems)))
    return _lay_out(source, name or source.title, roles, wires, shared, run or {})


def shared_values(
    cls: type[Actor[Any]], policy: str, shared: Mapping[str, Mapping[str, Any]]
) -> dict[type[Shared], Any]:
    """Return the shared records of a role class from a plan's plain tables."""
    values: dict[type[Shared], Any] = {}
    for record in cls.shared:
        entries = shared.get(record.table, {})
        if record.many:
            values[record] = {n: _known_part(record, t, n) for n, t in entries.items()}
        else:
            one = policy if record.table == "policy" else ""
            values[record] = _known_part(record, entries.get(one, {}), record.table)
    return values


def _known_part(record: type[Shared], table: Mapping[str, Any], where: str) -> Shared:
    names = {f.encode_name for f in msgspec.structs.fields(record)}
    return read_table(record, {k: v for k, v in table.items() if k in names}, where)


def _guard(roles: _Roles, fn: Any, *args: Any) -> Any:
    """Call `fn`; collect its complaints instead of stopping at the first."""
    try:
        return fn(*args)
    except ConfigError as error:
        roles.problems.extend(str(error).splitlines())
        return None


def _policies(source: Source) -> dict[str, Any]:
    """Return the policy tables by name; [policy] alone is called "policy"."""
    named = source.tables.get("policies", {})
    single = source.tables.get("policy")
    if single is not None and named:
        raise ConfigError(f"{source.path.name}: write [policy] or [policies.X], not both")
    return dict(named) if named else ({"policy": single} if single is not None else {})


def _read_role(
    roles: _Roles, name: str, tables: Mapping[str, Any], policies: Mapping[str, Any]
) -> None:
    where = roles.where("roles", name)
    table = dict(tables[name])
    for key in NOT_YET:
        if key in table:
            raise ConfigError(f"{where}.{key}: not in this build of realnet; take it out")
    own = {key: table.pop(key) for key in RESERVED if key in table}
    kind = str(own.get("kind", name))
    cls = load_kind(kind, roles.source.base, where)
    config = read_table(cls.Config, table, where)
    policy = str(own.get("policy", next(iter(policies)) if len(policies) == 1 else ""))
    if policy and policy not in policies:
        raise ConfigError(
            f'{where}.policy = "{policy}": no such policy.{nearest(policy, policies)} '
            f"Policies: {listed(policies)}"
        )
    restarts, per_s = _restart(own.get("restart"), cls, where)
    plan = RolePlan(
        name=name,
        kind=kind,
        count=_whole(own, "count", 1, where, least=1),
        config=to_plain(config),
        policy=policy,
        place=str(own.get("place", "")),
        cpus=_whole(own, "cpus", 1, where, least=1),
        gpus=_whole(own, "gpus", 0, where, least=0),
        env={str(k): str(v) for k, v in dict(own.get("env", {})).items()},
        restarts=restarts,
        restart_per_s=per_s,
    )
    roles.classes[name], roles.configs[name], roles.plans[name] = cls, config, plan


def _whole(own: Mapping[str, Any], key: str, default: int, where: str, least: int) -> int:
    value = own.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{where}.{key} = {value!r}: must be a whole number, at least {least}")
    return value


def _restart(value: Any, cls: type[Actor[Any]], where: str) -> tuple[int, float]:
    if value is None:
        return cls.restart.times, cls.restart.per_s
    if value is False:
        return 0, 60.0
    match = re.fullmatch(r"\s*(\d+) per (\w+)\s*", str(value))
    if match is None:
        raise ConfigError(f'{where}.restart = {value!r}: write "5 per 1min", or false for never')
    period = read_table(_Period, {"per": match[2]}, where).per
    return int(match[1]), float(period)


class _Period(Config):
    per: Seconds


def _check_places(roles: _Roles) -> None:
    for name, plan in roles.plans.items():
        if not plan.place:
            continue
        host = roles.plans.get(plan.place)
        where = roles.where("roles", name)
        if host is None or host.place:
            others = [n for n, p in roles.plans.items() if n != name and not p.place]
            raise ConfigError(
                f'{where}.place = "{plan.place}": no role with processes of its own is called '
                f"that.{nearest(plan.place, others)} Such roles: {listed(others)}"
            )
        if "count" in roles.source.tables["roles"][name]:
            raise ConfigError(f"{where}.count: it lives with {host.name} and has as many members")


def _read_run(roles: _Roles) -> dict[str, Any]:
    table = roles.source.tables.get("run", {})
    own = {f.encode_name for f in msgspec.structs.fields(RunTable)}
    known = set(own)
    for cls in roles.classes.values():
        for record in cls.shared:
            if record.table == "run":
                known |= {f.encode_name for f in msgspec.structs.fields(record)}
    problems = [
        f"{roles.where('run')}.{key}: no such key.{nearest(key, known)} "
        f"[run] knows: {listed(known)}"
        for key in table
        if key not in known
    ]
    if problems and roles.classes:
        raise ConfigError("\n".join(problems))
    part = {k: v for k, v in table.items() if k in own}
    return read_run_table(part, roles.where("run"))


def _read_shared(roles: _Roles, policies: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Validate the shared tables against every record that some role declares for them."""
    shared: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    records = dict.fromkeys(r for cls in roles.classes.values() for r in cls.shared)
    for record in records:
        if record.table == "policy":
            entries = dict(policies)
            if not entries:
                problems.append(
                    f"{roles.source.path.name}: [policy] is missing: the model, tokenizer, "
                    "context, batch and group that the roles agree on"
                )
        elif record.many:
            entries = dict(roles.source.tables.get(record.table, {}))
            if not entries:
                problems.append(
                    f"{roles.source.path.name}: no [{record.table}.X]: write one or more tables "
                    f"[{record.table}.NAME]"
                )
        else:
            entries = {"": roles.source.tables.get(record.table, {})}
        for name, table in entries.items():
            path = (record.table, name) if record.many else (record.table,)
            if record.table == "run":
                names = {f.encode_name for f in msgspec.structs.fields(record)}
                table = {k: v for k, v in table.items() if k in names}
            try:
                value = read_table(record, table, roles.where(*path))
            except ConfigError as error:
                problems.extend(str(error).splitlines())
                continue
            shared.setdefault(record.table, {}).setdefault(name, {}).update(to_plain(value))
    if roles.classes:
        used = {r.table for r in records}
        problems.extend(
            f"{roles.where(t)}: no role of this topology uses this table"
            for t in ("policy", "tasks")
            if t in roles.source.tables and t not in used
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return shared


def _lay_out(
    source: Source,
    name: str,
    roles: _Roles,
    wires: Sequence[WirePlan],
    shared: dict[str, dict[str, Any]],
    run: dict[str, Any],
) -> Plan:
    plans = roles.plans
    for role, plan in list(plans.items()):
        if plan.place:
            plans[role] = msgspec.structs.replace(plan, count=plans[plan.place].count)
    living = {r: [r, *(o for o, p in plans.items() if p.place == r)] for r in plans}
    targets = _targets(plans, wires)
    slots = []
    for role, plan in plans.items():
        if plan.place:
            continue
        wanted = {t for r in living[role] for t in targets[r]}
        hosts = {plans[t].place or t for t in wanted} - {role}
        after = tuple(sorted(f"{h}/{i}" for h in hosts for i in range(plans[h].count)))
        slots += [SlotPlan(f"{role}/{i}", i, tuple(living[role]), after) for i in range(plan.count)]
    return Plan(
        name=name,
        title=source.title,
        topology=str(source.path),
        base=str(source.base),
        roles=plans,
        wires=tuple(wires),
        slots=tuple(slots),
        stop_order=_stages(plans, targets),
        shared=shared,
        run=run,
    )


def _targets(plans: Mapping[str, RolePlan], wires: Sequence[WirePlan]) -> dict[str, set[str]]:
    """Return role -> the roles it hands work to or asks; hops that would close a circle left out.

    Work goes before questions: when two roles depend on each other, the share wire decides.
    """
    targets: dict[str, set[str]] = {role: set() for role in plans}

    def reaches(start: str, goal: str) -> bool:
        todo, seen = [start], {start}
        while todo:
            role = todo.pop()
            if role == goal:
                return True
            fresh = targets[role] - seen
            seen |= fresh
            todo.extend(fresh)
        return False

    for kind in ("share", "ask"):
        for w in wires:
            if w.kind == kind and w.from_role != w.to_role and not reaches(w.to_role, w.from_role):
                targets[w.from_role].add(w.to_role)
    return targets


def _stages(
    plans: Mapping[str, RolePlan], targets: Mapping[str, set[str]]
) -> tuple[tuple[str, ...], ...]:
    """Return the roles in stages: whoever makes work stops before whoever takes it."""
    left = dict.fromkeys(plans)
    stages = []
    while left:
        stage = [r for r in left if not any(r in targets[o] for o in left if o != r)]
        stages.append(tuple(stage))
        for role in stage:
            del left[role]
    return tuple(stages)
