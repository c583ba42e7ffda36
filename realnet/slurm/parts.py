"""Which nodes a run asks for: as many as hold it, all of one kind; or of one kind for each pool of
the topology, where the site file says something of such a pool.

Knows nothing of scripts or sbatch. Called by `submit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from realnet.errors import ConfigError
from realnet.slurm.commands import Shape
from realnet.slurm.records import Part
from realnet.slurm.site import Site, for_pool
from realnet.topology.placement import Host, Placement, gpus_each, place_among, place_on
from realnet.topology.plan import Plan, PoolPlan

MOST_NODES = 512
ShapeOf = Callable[[str], Shape | None]  # of a partition's nodes; None: nobody can say


class Asked(NamedTuple):
    """The kinds of nodes, and who would live where on them."""

    parts: list[Part]
    placement: Placement


def divide(plan: Plan, site: Site, nodes: int, spares: int, shape_of: ShapeOf) -> Asked:
    """Return the nodes to ask for: with pools of several kinds a part for each, else one.

    `nodes` is 0 where nobody said it; `spares` come beside them, for each kind. Raises ConfigError.
    """
    kinds = kinds_of(plan, site)
    if "" in kinds:
        num, placement = place(plan, nodes, shape_of(site.partition))
        cpus, gpus = most(plan, placement)
        return Asked([Part("", num, spares, gpus, cpus)], placement)
    hosts: list[Host] = []
    for pool, own in kinds.items():
        planned = plan.pools[pool]
        num = _num_nodes(planned)
        shape = shape_of(own.partition)
        if shape is not None and num + spares > shape.nodes:
            raise ConfigError(
                f"pool {pool} needs {num + spares} nodes: its partition has {shape.nodes}"
            )
        host = _host(shape, planned, gpus_each(plan, num, pool))
        hosts += [host._replace(pool=pool)] * num
        hosts += [host._replace(pool=pool, spare=True)] * spares
    total = sum(not h.spare for h in hosts)
    if nodes and nodes != total:
        raise ConfigError(
            f"{nodes} nodes: the pools of {plan.title} want {total}, since their nodes differ; "
            "[pools.X] nodes = ... says how many"
        )
    placement = place_among(plan, hosts)
    parts = []
    for pool in kinds:
        cpus, gpus = most(plan, placement, pool)
        parts.append(Part(pool, _num_nodes(plan.pools[pool]), spares, gpus, cpus))
    return Asked(parts, placement)


def kinds_of(plan: Plan, site: Site) -> dict[str, Site]:
    """Return what the site says for the nodes of each pool; for all alike ("") if it says nothing
    of any pool of this topology.
    """
    if not site.pools.keys() & plan.pools.keys():
        return {"": site}
    return {pool: for_pool(site, pool) for pool in plan.pools}


def place(plan: Plan, nodes: int, shape: Shape | None) -> tuple[int, Placement]:
    """Return how many nodes a plan gets, and its places on them. Raises ConfigError.

    Without `nodes`: as few as hold it, as far as the shape of a node is known.
    """
    least = max(1, sum(p.nodes for p in plan.pools.values()))
    if nodes and shape is not None and nodes > shape.nodes:
        raise ConfigError(f"{nodes} nodes: the partition has {shape.nodes}")
    largest = min(MOST_NODES, shape.nodes) if shape is not None else least
    tried = [nodes] if nodes else range(least, largest + 1)
    complaint = f"it needs {least} nodes, the partition has {shape.nodes if shape else '?'}"
    each = Host("") if shape is None else Host("", shape.cpus, shape.gpus, shape.memory_bytes)
    for num in tried:
        try:
            return num, place_on(plan, num, 0, each)
        except ConfigError as error:
            complaint = str(error)
    raise ConfigError(complaint)


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
    return Host("", shape.cpus, shape.gpus, shape.memory_bytes)
