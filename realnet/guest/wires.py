"""The wires of a guest's actor, checked by type against the plan, without the code of its roles.

Both ends check: the guest, so that a mistake is told where it was made, and the head, since nobody
takes a guest's word for it. Knows nothing of sockets or processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from realnet.errors import ConfigError, listed, nearest
from realnet.topology.plan import EndsPlan, Plan, WirePlan

# kind of port -> (kind of wire, the port at its other end; "" is its handlers, the guest gives)
_OTHER = {
    "Outlet": ("share", "Inlet", True),
    "Inlet": ("share", "Outlet", False),
    "StateOut": ("state", "StateIn", True),
    "StateIn": ("state", "StateOut", False),
    "Ask": ("ask", "", True),
}


def guest_wires(
    role: str, mine: EndsPlan, wires: Mapping[str, Sequence[str]], plan: Plan
) -> tuple[WirePlan, ...]:
    """Return the wires of an actor whose `role` is the guest's name for it.

    `wires` maps its ports to roles, or "role.port", of the run. Raises ConfigError with a line for
    each mistake: a port that is not there or not wired, ends that differ in type.
    """
    problems, found = [], []
    for port in wires:
        if port not in mine.ports:
            problems.append(
                f'{role} has no port "{port}".{nearest(port, mine.ports)} '
                f"Its ports: {listed(mine.ports)}"
            )
    for port, (kind, types) in mine.ports.items():
        targets = wires.get(port, ())
        if not targets and kind != "StateOut":
            problems.append(
                f'{role}.{port} ({kind} of {", ".join(types)}) is not wired: wires={{"{port}": '
                f'"ROLE"}}. Roles that fit: {listed(_fitting(kind, types, plan))}'
            )
        for target in targets:
            try:
                found.append(_wire(role, port, mine, target, plan))
            except ConfigError as error:
                problems.append(str(error))
    if not problems:
        problems = _circles(found, plan)
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(found)


def check_records(who: str, mine: EndsPlan, role: str, theirs: EndsPlan) -> None:
    """Refuse records that the two ends mean differently. Raises ConfigError."""
    wrong = [
        name for name, digest in mine.records.items() if theirs.records.get(name, digest) != digest
    ]
    if wrong:
        raise ConfigError(
            f"{who} has other fields in {listed(wrong)} than {role}: use the code that the run was "
            "started with"
        )


def ends_of_role(role: str, plan: Plan, where: str) -> EndsPlan:
    """Return the ends of a role of the plan. Raises ConfigError when there is none of this name."""
    known = plan.ends.get(role)
    if known is None:
        raise ConfigError(
            f'{where}: "{role}" is no role of {plan.name}.{nearest(role, plan.ends)} '
            f"Roles: {listed(plan.ends)}"
        )
    return known


def _wire(role: str, port: str, mine: EndsPlan, target: str, plan: Plan) -> WirePlan:
    kind, types = mine.ports[port]
    wire, other, gives = _OTHER[kind]
    name, _, wanted = target.partition(".")
    where = f"{role}.{port} -> {target}"
    theirs = ends_of_role(name, plan, where)
    if wanted and wanted not in theirs.ports:
        raise ConfigError(
            f'{where}: {name} has no port "{wanted}".{nearest(wanted, theirs.ports)} '
            f"Its ports: {listed(theirs.ports)}"
        )
    if kind == "Ask":
        missing = [t for t in types if t not in theirs.handles]
        if missing or wanted:
            raise ConfigError(
                f"{where}: {name} does not answer {listed(missing) if missing else wanted}; it "
                f"answers {listed(theirs.handles)}"
            )
        fitting = [""]
    else:
        fitting = [
            n
            for n, end in theirs.ports.items()
            if end == (other, types) and (not wanted or n == wanted)
        ]
    if not fitting:
        has = [f"{n}: {k} of {', '.join(t)}" for n, (k, t) in theirs.ports.items()]
        raise ConfigError(
            f"{where}: the ends differ in type: {kind} of {', '.join(types)} needs {_a(other)} of "
            f"the same; {name} has {'; '.join(has) or 'no ports'}"
        )
    if len(fitting) > 1:
        choices = listed(f"{name}.{n}" for n in fitting)
        raise ConfigError(f"{where} fits in more than one way: write one of {choices}")
    records = EndsPlan(records={t: d for t, d in mine.records.items() if t in theirs.records})
    check_records(f"{role}.{port}", records, name, theirs)
    why = f"the guest's: {where}"
    if gives:
        return WirePlan(wire, role, port, name, fitting[0], types, why)
    return WirePlan(wire, name, fitting[0], role, port, types, why)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AIO" else f"a {kind}"


def _fitting(kind: str, types: tuple[str, ...], plan: Plan) -> list[str]:
    other = _OTHER[kind][1]
    return [
        role
        for role, ends in plan.ends.items()
        if (
            all(t in ends.handles for t in types)
            if kind == "Ask"
            else (other, types) in ends.ports.values()
        )
    ]


def _circles(found: Sequence[WirePlan], plan: Plan) -> list[str]:
    """Return a complaint if the new share wires close a circle."""
    next_of: dict[str, set[str]] = {}
    for w in (*plan.wires, *found):
        if w.kind == "share" and not w.feedback:
            next_of.setdefault(w.from_role, set()).add(w.to_role)
    for w in found:
        todo, seen = [w.to_role], {w.to_role}
        while w.kind == "share" and todo:
            for role in next_of.get(todo.pop(), set()) - seen:
                seen.add(role)
                todo.append(role)
        if w.from_role in seen:
            return [
                f"{w.from_role}.{w.from_port} -> {w.to_role} closes a circle of share wires: with "
                "everyone's room full nobody could move; take work or give it, not both"
            ]
    return []
