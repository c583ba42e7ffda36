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
from realnet.topology.kinds import load_kind, registered_kinds
from realnet.topology.plan import WirePlan


class Ends(NamedTuple):
    """A role as wiring sees it."""

    name: str
    policy: str
    ports: dict[str, Port]
    handles: frozenset[type[Message]]


def ends_of(name: str, policy: str, cls: type[Actor[Any]]) -> Ends:
    """Return what a role can be wired by."""
    return Ends(name, policy, declared_ports(cls), frozenset(declared_handlers(cls)))


def wire(chains: Mapping[str, Any], roles: Mapping[str, Ends]) -> tuple[list[WirePlan], list[str]]:
    """Return the wires of all chains and those joined by policy, and every problem found."""
    wires: list[WirePlan] = []
    problems: list[str] = []
    for name, chain in chains.items():
        if not isinstance(chain, str):
            problems.append(f'[wires].{name} must be a chain such as "a -> b -> c", not {chain!r}')
            continue
        stops = [stop.strip() for stop in chain.split("->")]
        if len(stops) < 2:
            problems.append(f'[wires].{name} = "{chain}": a chain needs at least two roles')
        for left, right in itertools.pairwise(stops):
            try:
                wires.append(_hop(left, right, roles, f"[wires].{name}", name))
            except ConfigError as error:
                problems.append(str(error))
    wires.extend(_joined(roles, wires))
    if not problems:  # a broken chain leaves ends open; one complaint is enough
        problems.extend(_open_ends(roles, wires))
    problems.extend(_cycles(wires))
    return wires, problems


def _end(text: str, roles: Mapping[str, Ends], where: str) -> tuple[Ends, str]:
    role, _, port = text.partition(".")
    if role not in roles:
        raise ConfigError(
            f'{where}: "{role}" is no role of this topology.{nearest(role, roles)} '
            f"Roles: {listed(roles)}"
        )
    if port and port not in roles[role].ports:
        raise ConfigError(
            f'{where}: {role} has no port "{port}".{nearest(port, roles[role].ports)} '
            f"Its ports: {listed(roles[role].ports)}"
        )
    return roles[role], port


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
            f"{a.name}.{o.name} -> {b.name}.{i.name if i else ''}" for o, i in found
        )
        raise ConfigError(f"{where}: {left} -> {right} fits in more than one way: {choices}")
    raise ConfigError(
        f"{where}: {left} -> {right}: the ends differ in type. {a.name} gives "
        f"{', '.join(f'{p.name}: {p!r}' for p in gives) or 'nothing'}; {b.name} takes "
        f"{', '.join(takes) or 'nothing'}"
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
    for role in roles.values():
        for port in role.ports.values():
            if (role.name, port.name) in used or isinstance(port, StateOut):
                continue
            verb = {Inlet: "takes", Outlet: "gives", Ask: "asks", StateIn: "follows"}[type(port)]
            names = ", ".join(t.__name__ for t in port.types)
            other = _who_would_fit(port)
            problems.append(
                f"[roles.{role.name}]: its port {port.name} {verb} {names}, and no role here is "
                "its other end. "
                + (f"Is a role missing? {other}" if other else "Wire it, or leave the role out.")
            )
    return problems


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


def _cycles(wires: list[WirePlan]) -> list[str]:
    next_of: dict[str, set[str]] = {}
    for w in wires:
        if w.kind == "share":
            next_of.setdefault(w.from_role, set()).add(w.to_role)

    def reaches(start: str) -> bool:
        seen: set[str] = set()
        todo = list(next_of.get(start, ()))
        while todo:
            role = todo.pop()
            if role == start:
                return True
            if role not in seen:
                seen.add(role)
                todo.extend(next_of.get(role, ()))
        return False

    circle = [role for role in next_of if reaches(role)]
    if not circle:
        return []
    return [
        f"share wires run in a circle through {', '.join(sorted(circle))}: with everyone's room "
        "full, nobody could move. Take one hop out."
    ]
