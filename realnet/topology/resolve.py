"""From a merged topology to a plan, with every mistake told at once.

Finds the role classes, reads their tables and the shared records they declare, wires them, lays
them out in processes, orders start and stop. The framework's part of [run] is in `runtable.py`,
that of [roles.X] in `roletable.py`; everything else in [run], [policy] and [tasks.X] belongs to
the records that role classes declare.

Knows nothing of what those records mean. Called by the command line and by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from realnet.actor import Actor, Beside
from realnet.config import Shared, read_table, to_plain
from realnet.errors import ConfigError, listed, nearest
from realnet.topology.ends import plain_ends
from realnet.topology.hints import forgotten, hinted
from realnet.topology.kinds import load_object, not_installed
from realnet.topology.layout import pool_problems, settle, slots_of, stages_of, targets_of
from realnet.topology.plan import Plan, PoolPlan, WirePlan
from realnet.topology.roles import Roles
from realnet.topology.runtable import RunTable, read_run_table
from realnet.topology.source import Source
from realnet.topology.wiring import ends_of, wire


def resolve(source: Source, name: str = "", *, again: bool = False) -> Plan:
    """Return the plan of a topology. Raises ConfigError with one line for each mistake.

    `again`: of a run that goes on, which has what it was begun with.
    """
    roles = Roles(source)
    roles.problems.extend(source.problems)
    tables = source.tables.get("roles", {})
    if not tables and not any("[roles]" in p or '"roles"' in p for p in source.problems):
        roles.problems.append(
            f"{source.path.name}: no [roles.X]: a topology needs at least one role."
            f"{forgotten(source)}"
        )
    policies = _policies(roles)
    roles.read(policies)
    pools = roles.read_pools()
    if not tables:  # what is wrong with wires and shared tables would follow from that
        _guard(roles, _read_run, roles)
        raise ConfigError("\n".join(source.tell(roles.problems)))
    run = _guard(roles, _read_run, roles)
    _check_code(roles, run or {})
    shared: dict[str, dict[str, Any]] = {}
    roles.problems.extend(_read_shared(roles, policies, shared))
    whole = len(roles.classes) == len(tables) and not _homeless(roles, policies)
    ends = {r: ends_of(r, roles.policy_of[r], c) for r, c in roles.classes.items()}
    unknown = {r for r in tables if r not in ends}
    before_wires = len(roles.problems)
    wires, problems, open_ends = wire(source.tables.get("wires", {}), ends, unknown)
    roles.problems.extend(hinted(problems, source))
    if whole and not problems:
        lost = len(open_ends) > 1 and forgotten(source)
        if lost:  # one cause, one complaint
            open_ends = [f"{source.path.name}: its roles have no other ends.{lost}"]
        roles.problems.extend(open_ends)
    if len(roles.plans) == len(tables) and len(roles.problems) == before_wires:
        _check_pools(roles, pools)
    for role in roles.plans:
        _guard(roles, _check_role, roles, role, policies, shared, again)
    if roles.problems:
        raise ConfigError("\n".join(source.tell(roles.problems)))
    _fit(roles, shared)
    return _lay_out(name or source.title, roles, wires, shared, run or {}, pools)


def _fit(roles: Roles, shared: Mapping[str, Mapping[str, Any]]) -> None:
    """Let role classes fill in what their tables leave to follow from others."""
    settled = settle(roles.plans)
    for role, plan in settled.items():
        beside = {
            name: Beside(roles.configs[name], other.count, other.kind)
            for name, other in settled.items()
            if not plan.policy or other.policy in ("", plan.policy)
        }
        cls = roles.classes[role]
        values = shared_values(cls, plan.policy, shared)
        config = cls.fit(roles.configs[role], plan.count, values, beside)
        roles.plans[role] = msgspec.structs.replace(roles.plans[role], config=to_plain(config))


def _homeless(roles: Roles, policies: Mapping[str, Any]) -> bool:
    """Complain of roles that work on a policy, where there are several, and do not say on which."""
    found = [
        role
        for role, cls in roles.classes.items()
        if len(policies) > 1
        and not roles.policy_of[role]
        and any(record.table == "policy" for record in cls.shared)
    ]
    roles.problems.extend(
        f"{roles.source.where('roles', role)}.policy is missing: which of {listed(policies)} does "
        "it work on?"
        for role in found
    )
    return bool(found)


def _check_code(roles: Roles, run: Mapping[str, Any]) -> None:
    """Complain of a view or a report that is not there."""
    for key in ("view", "report"):
        if run.get(key):
            where = f"{roles.source.where('run')}.{key}"
            _guard(roles, load_object, run[key], roles.source.base, where)


def _check_role(
    roles: Roles,
    role: str,
    policies: Mapping[str, Any],
    shared: dict[str, dict[str, Any]],
    again: bool,
) -> None:
    """Let a role's class refuse what cannot work, when all that it looks at could be read."""
    cls, plan = roles.classes[role], roles.plans[role]
    for record in cls.shared:
        wanted = [plan.policy] if record.table == "policy" else [""]
        if record.many:
            wanted = list(roles.source.tables.get(record.table, {}))
        if not wanted or any(n not in shared.get(record.table, {}) for n in wanted):
            return
    try:
        values = shared_values(cls, plan.policy, shared)
    except ConfigError:
        return  # told where the shared tables were read
    base = roles.source.base
    if again:
        values = {
            record: value.going_on(base) if isinstance(value, Shared) else value
            for record, value in values.items()
        }
    cls.check(roles.configs[role], values, base)


def _check_pools(roles: Roles, pools: Mapping[str, PoolPlan]) -> None:
    for pool, key, text in pool_problems(settle(roles.plans), pools):
        roles.problems.append(f"{roles.source.where('pools', pool)}.{key}: {text}")


def shared_values(
    cls: type[Actor[Any]], policy: str, shared: Mapping[str, Mapping[str, Any]]
) -> dict[type[Shared], Any]:
    """Return the shared records of a role class from a plan's plain tables.

    Of many-records, the entries that name another policy than the role's are left out.
    """
    values: dict[type[Shared], Any] = {}
    for record in cls.shared:
        entries = shared.get(record.table, {})
        if record.many:
            values[record] = {
                n: _known_part(record, t, n)
                for n, t in entries.items()
                if not policy or t.get("policy", "") in ("", policy)
            }
        else:
            one = policy if record.table == "policy" else ""
            values[record] = _known_part(record, entries.get(one, {}), record.table)
    return values


def _known_part(record: type[Shared], table: Mapping[str, Any], where: str) -> Shared:
    names = {f.encode_name for f in msgspec.structs.fields(record)}
    return read_table(record, {k: v for k, v in table.items() if k in names}, where)


def _guard(roles: Roles, fn: Any, *args: Any) -> Any:
    """Call `fn`; collect its complaints instead of stopping at the first."""
    try:
        return fn(*args)
    except ConfigError as error:
        roles.complain(error)
    except ModuleNotFoundError as error:  # what a class checks with
        roles.problems.append(not_installed(error))
    return None


def _policies(roles: Roles) -> dict[str, Any]:
    """Return the policy tables by name; [policy] alone is called "policy"."""
    tables = roles.source.tables
    named, single = tables.get("policies", {}), tables.get("policy")
    if single is not None and named:
        roles.problems.append(
            f"{roles.source.where('policy')}: there are [policies.X] as well: write one or the "
            "other; in a file that extends one with [policy], write policy = false"
        )
    return dict(named) if named else ({"policy": single} if single is not None else {})


def _read_run(roles: Roles) -> dict[str, Any]:
    table = roles.source.tables.get("run", {})
    own = {f.encode_name for f in msgspec.structs.fields(RunTable)}
    known = set(own)
    for cls in roles.classes.values():
        for record in cls.shared:
            if record.table == "run":
                known |= {f.encode_name for f in msgspec.structs.fields(record)}
    problems = [
        f"{roles.source.where('run')}.{key}: no such key.{nearest(key, known)} "
        f"[run] knows: {listed(known)}"
        for key in table
        if key not in known
    ]
    if problems and roles.classes:
        raise ConfigError("\n".join(problems))
    part = {k: v for k, v in table.items() if k in own}
    return read_run_table(part, roles.source.where("run"))


def _read_shared(
    roles: Roles, policies: Mapping[str, Any], shared: dict[str, dict[str, Any]]
) -> list[str]:
    """Validate the shared tables against every record that some role declares for them.

    What is in order goes into `shared`; the complaints are returned.
    """
    problems: list[str] = []
    broken: set[tuple[str, str]] = set()
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
                value = read_table(record, table, roles.source.where(*path))
            except ConfigError as error:
                problems.extend(str(error).splitlines())
                broken.add((record.table, name))
                continue
            named = getattr(value, "policy", "") if record.many else ""
            if named and named not in policies:
                problems.append(
                    f'{roles.source.where(*path)}.policy = "{named}": no such policy.'
                    f"{nearest(named, policies)} Policies: {listed(policies)}"
                )
                broken.add((record.table, name))  # whose it is decides what else is wrong
            shared.setdefault(record.table, {}).setdefault(name, {}).update(to_plain(value))
    if roles.classes:
        used = {r.table for r in records}
        problems.extend(
            f"{roles.source.where(t)}: no role of this topology uses this table"
            for t in ("policy", "tasks")
            if t in roles.source.tables and t not in used
        )
    for table, name in broken:
        shared.get(table, {}).pop(name, None)
    return problems


def _lay_out(
    name: str,
    roles: Roles,
    wires: list[WirePlan],
    shared: dict[str, dict[str, Any]],
    run: dict[str, Any],
    pools: dict[str, PoolPlan],
) -> Plan:
    source = roles.source
    plans = settle(roles.plans)
    targets = targets_of(plans, wires)
    return Plan(
        name=name,
        title=source.title,
        topology=str(source.path),
        base=str(source.base),
        roles=plans,
        wires=tuple(wires),
        slots=slots_of(plans, targets),
        stop_order=stages_of(plans, targets),
        shared=shared,
        run=run,
        pools=pools,
        ends={role: plain_ends(cls) for role, cls in roles.classes.items()},
    )
