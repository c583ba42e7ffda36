"""Which nodes a run asks for: as many as hold it, all of one kind; or of one kind for each pool of
the topology, where the site file says something of such a pool.

A partition may mix nodes: the run is placed on what all of them have, and where that is too little,
on what fewer of them have, which is then what is asked for.

Knows nothing of scripts or sbatch. Called by `submit.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from realnet.errors import ConfigError
from realnet.slurm.commands import Shape
from realnet.slurm.records import Part
from realnet.slurm.site import Site, for_pool
from realnet.topology.placement import Host, Placement, gpus_each, place_among, place_on
from realnet.topology.plan import Plan, PoolPlan

MOST_NODES = 512
ShapesOf = Callable[[str], Sequence[Shape]]  # of a partition's nodes; none: nobody can say


class Asked(NamedTuple):
    """The kinds of nodes, and who would live where on them."""

    parts: list[Part]
    placement: Placement


def divide(plan: Plan, site: Site, nodes: int, spares: int, shapes_of: ShapesOf) -> Asked:
    """Return the nodes to ask for: with pools of several kinds a part for each, else one.

    `nodes` is 0 where nobody said it; `spares` come beside them, for each kind. Raises ConfigError.
    """
    kinds = kinds_of(plan, site)
    if "" in kinds:
        num, placement = place(plan, nodes, spares, shapes_of(site.partition))
        cpus, gpus = most(plan, placement)
        return Asked([Part("", num, spares, gpus, cpus)], placement)
    total = sum(_num_nodes(plan.pools[pool]) for pool in kinds)
    if nodes and nodes != total:
        raise ConfigError(
            f"{nodes} nodes: the pools of {plan.title} want {total}, since their nodes differ; "
            "[pools.X] nodes = ... says how many"
        )
    placement = _among_pools(plan, kinds, spares, shapes_of)
    parts = []
    for pool in kinds:
        cpus, gpus = most(plan, placement, pool)
        parts.append(Part(pool, _num_nodes(plan.pools[pool]), spares, gpus, cpus))
    return Asked(parts, placement)


def _among_pools(plan: Plan, kinds: dict[str, Site], spares: int, shapes_of: ShapesOf) -> Placement:
    """Return the places on the nodes of each pool. Raises ConfigError."""
    choices: list[list[tuple[str, Shape | None]]] = []
    for pool, own in kinds.items():
        shapes, num = shapes_of(own.partition), _num_nodes(plan.pools[pool]) + spares
        known = floors(shapes)
        enough = [floor for floor in known if floor.nodes >= num]
        if known and not enough:
            raise ConfigError(f"pool {pool} needs {num} nodes: its partition has {known[0].nodes}")
        tried: list[Shape | None] = [*enough] or [None]
        choices.append([(pool, floor) for floor in tried])
    complaint = ""
    for chosen in itertools.product(*choices):
        hosts: list[Host] = []
        for pool, shape in chosen:
            planned = plan.pools[pool]
            num = _num_nodes(planned)
            host = _host(shape, planned, gpus_each(plan, num, pool))._replace(pool=pool)
            hosts += [host] * num + [host._replace(spare=True)] * spares
        try:
            return place_among(plan, hosts)
        except ConfigError as error:
            complaint = str(error)
    raise ConfigError(complaint)


def kinds_of(plan: Plan, site: Site) -> dict[str, Site]:
    """Return what the site says for the nodes of each pool; for all alike ("") if it says nothing
    of any pool of this topology.
    """
    if not site.pools.keys() & plan.pools.keys():
        return {"": site}
    return {pool: for_pool(site, pool) for pool in plan.pools}


def place(plan: Plan, nodes: int, spares: int, shapes: Sequence[Shape]) -> tuple[int, Placement]:
    """Return how many nodes a plan gets, and its places on them. Raises ConfigError.

    Without `nodes`: as few as hold it, as far as the shapes of nodes are known.
    """
    least = max(1, sum(p.nodes for p in plan.pools.values()))
    known = floors(shapes)
    beside = f" and {spares} spares" if spares else ""
    if known and max(nodes, least) + spares > known[0].nodes:
        if nodes:
            raise ConfigError(f"{nodes} nodes{beside}: the partition has {known[0].nodes}")
        raise ConfigError(f"it needs {least} nodes{beside}, the partition has {known[0].nodes}")
    complaint = ""
    useful = min(MOST_NODES, least + len(plan.slots))  # with more some would be empty
    tried: list[Shape | None] = [*known] or [None]
    for floor in tried:
        largest = min(useful, floor.nodes - spares) if floor is not None else least
        for num in [nodes] if nodes else range(least, largest + 1):
            if floor is not None and num + spares > floor.nodes:
                continue
            try:
                if floor is None:
                    return num, place_on(plan, num, spares, Host(""))
                return num, place_among(plan, [_host_of(floor)] * (num + spares), spares)
            except ConfigError as error:
                complaint = str(error)
    raise ConfigError(complaint)


def floors(shapes: Sequence[Shape]) -> list[Shape]:
    """Return what one may count on: what all nodes have, then what fewer of them have."""
    if not shapes:
        return []
    cpus, gpus, memory = (min(values) for values in list(zip(*shapes, strict=True))[1:])
    found = {Shape(sum(s.nodes for s in shapes), cpus, gpus, memory)}
    for least in shapes:
        holding = sum(
            s.nodes for s in shapes if all(a >= b for a, b in zip(s[1:], least[1:], strict=True))
        )
        found.add(least._replace(nodes=holding))
    return sorted(found, reverse=True)


def most(plan: Plan, placement: Placement, pool: str = "") -> tuple[int, int]:
    """Return the cores and GPUs that the fullest node (of a pool) needs."""
    cpus: dict[str, int] = {}
    gpus: dict[str, int] = {}
    slots = {s.name: s for s in plan.slots}
    own = {h.name for h in placement.hosts if pool in ("", h.pool)}
    for name, at in placement.places.items():
        if at.host in own and name in slots:
            role = plan.roles[slots[name].roles[0]]
            cpus[at.host] = cpus.get(at.host, 0) + role.cpus
            gpus[at.host] = gpus.get(at.host, 0) + len(at.gpus)
    return max(cpus.values(), default=1), max(gpus.values(), default=0)


def _num_nodes(pool: PoolPlan) -> int:
    return pool.nodes or max(1, len(pool.hosts))


def _host(shape: Shape | None, pool: PoolPlan, gpus: int) -> Host:
    if shape is None:
        return Host("", pool.cpus, pool.gpus or gpus, pool.memory_bytes)
    return _host_of(shape)


def _host_of(shape: Shape) -> Host:
    return Host("", shape.cpus, shape.gpus, shape.memory_bytes)
