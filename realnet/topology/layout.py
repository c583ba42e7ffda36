"""From roles and wires to processes: who lives where, who starts and stops when, and whether the
machines of a pool can hold it.

Knows nothing of files, classes or configs. Called by `resolve.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from realnet.topology.plan import PoolPlan, RolePlan, SlotPlan, WirePlan

TARGETS = dict[str, set[str]]


def settle(plans: dict[str, RolePlan]) -> dict[str, RolePlan]:
    """Return the roles with those that live with another given its count, machines and limits."""
    settled = {}
    for name, plan in plans.items():
        host = plans.get(plan.place)
        settled[name] = (
            plan
            if host is None
            else msgspec.structs.replace(
                plan,
                count=host.count,
                max=host.max,
                cpus=host.cpus,
                gpus=0,  # of its process: counted once, with its host
                pool=host.pool,
            )
        )
    return settled


def slots_of(plans: Mapping[str, RolePlan], targets: TARGETS) -> tuple[SlotPlan, ...]:
    """Return one slot for each process: members of roles, and the ranks of each gang."""
    living = {r: [r, *(o for o, p in plans.items() if p.place == r)] for r in plans}
    slots = []
    for role, plan in plans.items():
        if plan.place:
            continue
        wanted = {t for r in living[role] for t in targets[r]}
        hosts = {plans[t].place or t for t in wanted} - {role}
        after = tuple(sorted(f"{h}/{i}" for h in hosts for i in range(plans[h].count)))
        for index in range(plan.count):
            leader = f"{role}/{index}"
            gang = leader if plan.ranks > 1 else ""
            slots.append(SlotPlan(leader, index, tuple(living[role]), after, 0, gang))
            slots += [
                SlotPlan(f"{leader}.{rank}", index, (role,), after, rank, gang)
                for rank in range(1, plan.ranks)
            ]
    return tuple(slots)


def targets_of(plans: Mapping[str, RolePlan], wires: Sequence[WirePlan]) -> TARGETS:
    """Return role -> the roles it hands work to or asks; hops that would close a circle left out.

    Work goes before questions: when two roles depend on each other, the share wire decides. A
    feedback wire decides nothing: it is the one that closes its circle.
    """
    targets: TARGETS = {role: set() for role in plans}

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
            if w.kind != kind or w.feedback or w.from_role == w.to_role:
                continue
            if not reaches(w.to_role, w.from_role):
                targets[w.from_role].add(w.to_role)
    return targets


def stages_of(
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


class Need:
    """What some roles need of a resource, in processes."""

    def __init__(self, unit: str, has: int, per_process: Mapping[str, tuple[int, int]]):
        self.unit, self.has = unit, has
        self.per_process = {r: (n, each) for r, (n, each) in per_process.items() if each}

    @property
    def total(self) -> int:
        """Of all processes together."""
        return sum(n * each for n, each in self.per_process.values())

    def complaint(self, hosts: int) -> str:
        """Return why it certainly does not fit, or ''."""
        for role, (_, each) in self.per_process.items():
            if each > self.has:
                return (
                    f"one process of {role} needs {_amount(each, self.unit)}, "
                    f"a host has {_amount(self.has, self.unit)}"
                )
        if self.total > hosts * self.has:
            of_each = ", ".join(
                f"{role} {n} x {_amount(each, self.unit)}"
                for role, (n, each) in self.per_process.items()
            )
            where = f"its {hosts} hosts have" if hosts > 1 else "it has"
            return (
                f"its roles need {_amount(self.total, self.unit)} ({of_each}), "
                f"{where} {_amount(hosts * self.has, self.unit)}"
            )
        return ""


def _amount(number: int, unit: str) -> str:
    if unit == "memory":
        return f"{number / 2**30:.3g} GiB"
    return f"{number} {unit}{'s' if number != 1 else ''}"


def pool_problems(
    plans: Mapping[str, RolePlan], pools: Mapping[str, PoolPlan]
) -> list[tuple[str, str, str]]:
    """Return (pool, key, complaint) for what certainly does not fit.

    Only sums and single processes are compared: what passes may still not fit host by host.
    """
    found = []
    for pool in pools.values():
        roles = [p for p in plans.values() if p.pool == pool.name and not p.place]
        for unit, key, has, each in (
            ("core", "cpus", pool.cpus, {r.name: r.cpus for r in roles}),
            ("GPU", "gpus", pool.gpus, {r.name: r.gpus for r in roles}),
            ("memory", "memory", pool.memory_bytes, {r.name: r.memory_bytes for r in roles}),
        ):
            if not has:
                continue
            need = Need(unit, has, {r.name: (r.count * r.ranks, each[r.name]) for r in roles})
            text = need.complaint(max(1, len(pool.hosts), pool.nodes))
            if text:
                found.append((pool.name, key, text))
    return found
