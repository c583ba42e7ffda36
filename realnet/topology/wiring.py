"""Which port goes to which, found from the types.

A wire is a named chain, `work = "prompter -> driver -> trainer"`; for each hop exactly one pair of
ports must fit. Ports that are joined by policy wire themselves. Every inlet, outlet, ask and state
inlet must end up on a wire.

Knows role classes only by their declared ports. Called by `resolve.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from realnet.actor import Actor
from realnet.errors import ConfigError, listed, nearest
from realnet.message import Message
from realnet.ports import (
    Ask,
    Inlet,
    Outlet,
    Port,
    StateIn,
    StateOut,
    declared_handlers,
    declared_ports,
)
from realnet.topology.chains import WireTable, read_wire, stops_of
from realnet.topology.kinds import load_kind, registered_kinds
from realnet.topology.plan import WirePlan
from realnet.topology.wholewiring import circles, hops_told_apart, states_joined_twice


class Ends(NamedTuple):
    """A role as wiring sees it."""

    name: str
    policy: str
    ports: dict[str, Port]
    handles: frozenset[type[Message]]


def ends_of(name: str, policy: str, cls: type[Actor[Any]]) -> Ends:
    """Return what a role can be wired by."""
    return Ends(name, policy, declared_ports(cls), frozenset(declared_handlers(cls)))


def wire(
    chains: Mapping[str, Any], roles: Mapping[str, Ends], unknown: Iterable[str] = ()
) -> tuple[list[WirePlan], list[str], list[str]]:
    """Return the wires of all chains and those joined by policy, every problem found, and a
    complaint for each port that nothing is wired to.

    `unknown` are roles whose class could not be found: nothing is said of their wires.
    """
    known = {*roles, *unknown}
    wires: list[WirePlan] = []
    problems: list[str] = []
    for name, written in chains.items():
        where = f"[wires].{name}"
        try:
            table = read_wire(written, where)
            stops = stops_of(table.path, where)
        except ConfigError as error:
            problems.extend(str(error).splitlines())
            continue
        names = dict.fromkeys(stop.partition(".")[0] for stop in stops)
        problems.extend(
            f'{where}: "{role}" is no role of this topology.{nearest(role, known)} '
            f"Roles: {listed(known)}"
            for role in names
            if role not in known
        )
        for at, (left, right) in enumerate(itertools.pairwise(stops)):
            # The port of a role in the middle is the one that gives, or the one that takes.
            if at > 0 and not _gives(left, roles):
                left = left.partition(".")[0]
            if at < len(stops) - 2 and _gives(right, roles):
                right = right.partition(".")[0]
            pair = {stop.partition(".")[0] for stop in (left, right)}
            if not pair <= roles.keys():  # told above, or where its class was looked for
                continue
            try:
                hop = _hop(left, right, roles, where, name)
                wires.append(_with_options(hop, table, len(stops), roles, where))
            except ConfigError as error:
                problems.append(str(error))
    wires.extend(_joined(roles, wires))
    problems.extend(circles(wires))
    problems.extend(states_joined_twice(wires))
    problems.extend(hops_told_apart(wires))
    return wires, problems, _open_ends(roles, wires)


def _with_options(
    hop: WirePlan, table: WireTable, stops: int, roles: Mapping[str, Ends], where: str
) -> WirePlan:
    """Return the hop with the options of its wire. Raises ConfigError where they do not fit."""
    path = f"{hop.from_role} -> {hop.to_role}"
    own = "" if stops == 2 else "; write that hop as a wire of its own"
    if table.feedback and (hop.kind != "share" or stops != 2):
        why = (
            f"{path} is {_a(hop.kind)} wire; only share wires can run in a circle"
            if hop.kind != "share"
            else "it marks the one hop that closes a circle; write that hop as a wire of its own"
        )
        raise ConfigError(f"{where}.feedback = {table.feedback}: {why}")
    if table.deadline and hop.kind != "ask":
        raise ConfigError(
            f"{where}.deadline: {path} is {_a(hop.kind)} wire; only an ask wire has one{own}"
        )
    if table.affinity:
        if hop.kind == "state":
            raise ConfigError(f"{where}.affinity: {path} is a state wire; all see one value{own}")
        types = roles[hop.from_role].ports[hop.from_port].types
        fields = {n: [f.name for f in msgspec.structs.fields(t)] for n, t in _named(types).items()}
        if not any(table.affinity in names for names in fields.values()):
            known = [n for names in fields.values() for n in names]
            raise ConfigError(
                f'{where}.affinity = "{table.affinity}": {listed(fields)} has no such field.'
                f"{nearest(table.affinity, known)} Fields: {listed(known)}{own}"
            )
    return msgspec.structs.replace(
        hop,
        feedback=table.feedback,
        affinity=table.affinity,
        deadline_s=float(table.deadline),
    )


def _named(types: Iterable[type[Message]]) -> dict[str, type[Message]]:
    return {t.__name__: t for t in types}


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _end(text: str, roles: Mapping[str, Ends], where: str) -> tuple[Ends, str]:
    role, _, port = text.partition(".")
    if port and port not in roles[role].ports:
        raise ConfigError(
            f'{where}: {role} has no port "{port}".{nearest(port, roles[role].ports)} '
            f"Its ports: {listed(roles[role].ports)}"
        )
    return roles[role], port


def _gives(stop: str, roles: Mapping[str, Ends]) -> bool:
    role, _, port = stop.partition(".")
    return role in roles and isinstance(roles[role].ports.get(port), Outlet | Ask | StateOut)


def _fits(out: Port, into: Port | None, handles: frozenset[type[Message]]) -> bool:
    if isinstance(out, Ask):
        return into is None and all(t in handles for t in out.types)
    pair = (Outlet, Inlet) if isinstance(out, Outlet) else (StateOut, StateIn)
    return isinstance(out, pair[0]) and isinstance(into, pair[1]) and out.types == into.types


def _pairs(left: Ends, right: Ends) -> Iterable[tuple[Port, Port | None]]:
    for out in left.ports.values():
        if _fits(out, None, right.handles):
            yield out, None
        for into in right.ports.values():
            if _fits(out, into, right.handles):
                yield out, into


def _hop(left: str, right: str, roles: Mapping[str, Ends], where: str, chain: str) -> WirePlan:
    (a, a_port), (b, b_port) = _end(left, roles, where), _end(right, roles, where)
    found = [
        (out, into)
        for out, into in _pairs(a, b)
        if (out.name == a_port if a_port else not out.joined_by)
        and (into is None or (into.name == b_port if b_port else not into.joined_by))
        and not (into is None and b_port)
    ]
    if len(found) == 1:
        return _plan(a, b, *found[0], f'wire "{chain}" says {a.name} -> {b.name}')
    gives = [p for p in a.ports.values() if isinstance(p, Outlet | Ask | StateOut)]
    takes: list[str] = [
        f"{p.name}: {p!r}" for p in b.ports.values() if isinstance(p, Inlet | StateIn)
    ]
    if b.handles:
        takes.append(f"answers {listed(t.__name__ for t in b.handles)}")
    if found:
        choices = "; ".join(
            f'"{a.name}.{o.name} -> {b.name}{f".{i.name}" if i else ""}"' for o, i in found
        )
        raise ConfigError(f"{where}: {left} -> {right} fits in more than one way; write {choices}")
    back = f'. The other way round fits: "{right} -> {left}"' if any(_pairs(b, a)) else ""
    raise ConfigError(
        f"{where}: {left} -> {right}: the ends differ in type. {a.name} gives "
        f"{', '.join(f'{p.name}: {p!r}' for p in gives) or 'nothing'}; {b.name} takes "
        f"{', '.join(takes) or 'nothing'}{back}"
    )


def _plan(a: Ends, b: Ends, out: Port, into: Port | None, why: str) -> WirePlan:
    types = tuple(t.__name__ for t in out.types)
    return WirePlan(out.wire, a.name, out.name, b.name, into.name if into else "", types, why)


def _joined(roles: Mapping[str, Ends], wires: list[WirePlan]) -> list[WirePlan]:
    taken = {(w.from_role, w.from_port) for w in wires}
    joined = []
    for a in roles.values():
        for b in roles.values():
            for out, into in _pairs(a, b):
                wants = out.joined_by or (into is not None and into.joined_by)
                by_hand = (a.name, out.name) in taken
                if wants and a.policy == b.policy and not by_hand:
                    why = f'both work on policy "{a.policy}"' if a.policy else "joined by type"
                    joined.append(_plan(a, b, out, into, why))
    return joined


def _open_ends(roles: Mapping[str, Ends], wires: list[WirePlan]) -> list[str]:
    used = {(w.from_role, w.from_port) for w in wires} | {(w.to_role, w.to_port) for w in wires}
    problems = []
    told: set[str] = set()  # chains that would close an open end
    for role in roles.values():
        for port in role.ports.values():
            if (role.name, port.name) in used or isinstance(port, StateOut):
                continue
            if isinstance(port, StateIn) and port.optional:
                continue
            verb = {Inlet: "takes", Outlet: "gives", Ask: "asks", StateIn: "follows"}[type(port)]
            names = ", ".join(t.__name__ for t in port.types)
            here = [r.name for r in roles.values() if _joins(role, port, r)]
            said = f"[roles.{role.name}]: its port {port.name} {verb} {names}, and no "
            if here:
                takes = isinstance(port, Inlet | StateIn)
                chains = [f"{n} -> {role.name}" if takes else f"{role.name} -> {n}" for n in here]
                if not told.issuperset(chains):  # its other end has not said the same
                    told.update(chains)
                    samples = " or ".join(f'"{chain}"' for chain in chains)
                    problems.append(f"{said}wire ends there. Write one, for example {samples}")
                continue
            other = _who_would_fit(port)
            problems.append(
                f"{said}role here is its other end. "
                + (f"Is a role missing? {other}" if other else "Write it, or leave this one out.")
            )
    return problems


def _joins(role: Ends, port: Port, other: Ends) -> bool:
    """Whether a wire between this port and another role would fit."""
    if other.name == role.name:
        return False
    return _fits(port, None, other.handles) or any(
        _fits(port, o, other.handles) or _fits(o, port, role.handles) for o in other.ports.values()
    )


def _who_would_fit(port: Port) -> str:
    """Name the registered kinds that would be the other end of a port."""
    fitting = []
    for kind in registered_kinds():
        try:
            ends = ends_of(kind, "", load_kind(kind, base=Path(), where=kind))
        except (ConfigError, ImportError):
            continue
        others = list(ends.ports.values())
        if _fits(port, None, ends.handles) or any(
            _fits(port, o, ends.handles) or _fits(o, port, frozenset(port.types)) for o in others
        ):
            fitting.append(kind)
    return f"It could be: {listed(fitting)}." if fitting else ""
