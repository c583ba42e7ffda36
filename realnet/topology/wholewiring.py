"""What can be wrong with all wires of a topology though each fits: circles of share wires that
nobody closes, states that are joined twice, and hops that two wires describe in two ways.

Knows nothing of roles or types. Called by `wiring.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from realnet.topology.plan import WirePlan


def circles(wires: list[WirePlan]) -> list[str]:
    """Return a complaint for each circle of share wires that no feedback wire closes."""
    next_of: dict[str, list[str]] = {}
    for w in wires:
        if w.kind == "share" and not w.feedback:
            next_of.setdefault(w.from_role, []).append(w.to_role)
    problems = []
    done: set[str] = set()
    for start in next_of:
        circle = [] if start in done else _circle(start, next_of)
        if circle:
            done.update(circle)
            last = f"{circle[-2]} -> {circle[-1]}"
            problems.append(
                f"[wires]: share wires run in a circle: {' -> '.join(circle)}. With everyone's "
                "room full, nobody could move. Take one hop out, or mark the one that closes the "
                f'circle and keep room for it: {{ path = "{last}", feedback = 8 }}'
            )
    return problems


def _circle(start: str, next_of: Mapping[str, list[str]]) -> list[str]:
    """Return the shortest way from a role back to itself, or nothing."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop(0)
        for role in next_of.get(way[-1], ()):
            if role == start:
                return [*way, role]
            if role not in seen:
                seen.add(role)
                ways.append([*way, role])
    return []


def states_joined_twice(wires: list[WirePlan]) -> list[str]:
    """Return a complaint for each state wire whose ends are joined by another one as well.

    Share wires tell several ports of one pair of roles apart; a state has one value and one place.
    """
    seen: dict[tuple[str, str, str], WirePlan] = {}
    problems = []
    for w in wires:
        if w.kind != "state":
            continue
        for role, port, other in (
            (w.from_role, w.from_port, w.to_role),
            (w.to_role, w.to_port, w.from_role),
        ):
            first = seen.setdefault((role, port, other), w)
            if (first.from_port, first.to_port) != (w.from_port, w.to_port):
                problems.append(
                    f"[wires]: {role}.{port} is wired to two state ports of {other}: "
                    f"{first.from_role}.{first.from_port} -> {first.to_role}.{first.to_port} and "
                    f"{w.from_role}.{w.from_port} -> {w.to_role}.{w.to_port}. Leave one out."
                )
    return problems


def hops_told_apart(wires: list[WirePlan]) -> list[str]:
    """Return a complaint for each hop that is on two wires with different options."""
    seen: dict[tuple[str, str, str, str], WirePlan] = {}
    problems = []
    for w in wires:
        hop = (w.from_role, w.from_port, w.to_role, w.to_port)
        first = seen.setdefault(hop, w)
        if _options(first) != _options(w):
            problems.append(
                f"[wires]: {w.from_role} -> {w.to_role} is on two wires with different options: "
                f"{first.why} with {_options(first) or 'none'}, {w.why} with "
                f"{_options(w) or 'none'}. Take the hop out of one of them"
            )
    return problems


def _options(wire: WirePlan) -> str:
    options = {
        "feedback": wire.feedback,
        "affinity": f'"{wire.affinity}"' if wire.affinity else "",
        "deadline": f"{wire.deadline_s:g} s" if wire.deadline_s else "",
    }
    return ", ".join(f"{name} = {value}" for name, value in options.items() if value)
