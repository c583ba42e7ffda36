"""What the pictures show: roles in columns, and one edge for all wires of a kind between two roles.

Knows nothing of how it is drawn. Called by the three drawings.
"""

from __future__ import annotations

from typing import NamedTuple

from realnet.topology.plan import Plan, RolePlan


class Box(NamedTuple):
    """A role: its name, what stands below it, and the stage that it stops in."""

    name: str
    note: str
    column: int


class Edge(NamedTuple):
    """Wires of one kind from one role to another."""

    kind: str
    source: str
    target: str
    label: str


class Graph(NamedTuple):
    """The picture, before it is drawn. Boxes stand in the order of the work."""

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def graph_of(plan: Plan) -> Graph:
    """Return the picture of a plan."""
    column = {role: i for i, stage in enumerate(plan.stop_order) for role in stage}
    boxes = [Box(r.name, note_of(r), column[r.name]) for r in plan.roles.values()]
    order = {name: i for i, name in enumerate(plan.roles)}
    boxes.sort(key=lambda b: (b.column, order[b.name]))
    labels: dict[tuple[str, str, str], list[str]] = {}
    for wire in plan.wires:
        texts = labels.setdefault((wire.kind, wire.from_role, wire.to_role), [])
        texts += [t for t in wire.types if t not in texts]
        if wire.feedback:
            texts.append(f"feedback {wire.feedback}")
    rank = {"share": 0, "ask": 1, "state": 2}
    keys = sorted(labels, key=lambda k: (column[k[1]], order[k[1]], rank[k[0]], column[k[2]]))
    edges = [Edge(*key, ", ".join(labels[key])) for key in keys]
    return Graph(plan.title, tuple(boxes), tuple(edges))


def note_of(role: RolePlan) -> str:
    """Return what is to be known of a role at a glance: members, gang, machines."""
    parts = []
    if role.count > 1 or role.max:
        parts.append(f"x {role.count}" + (f" to {role.max}" if role.max > role.count else ""))
    if role.ranks > 1:
        mesh = " x ".join(f"{name} {size}" for name, size in role.mesh.items())
        parts.append(f"{role.ranks} ranks" + (f" ({mesh})" if mesh else ""))
    if role.gpus:
        parts.append(f"{role.gpus} GPU" + ("s" if role.gpus > 1 else ""))
    if role.place:
        parts.append(f"in {role.place}")
    elif role.pool:
        parts.append(f"on {role.pool}")
    return ", ".join(parts)
