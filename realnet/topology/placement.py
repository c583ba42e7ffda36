"""Which slot lives on which host, with which of its GPUs: decided without IO.

Gangs go first and stay together where a host can hold them; then what needs most GPUs, packed;
then the rest, spread: the members of one role over as many hosts as there are. GPUs are given out
by position in the host's own list. A spare host gets nothing until somebody needs a place. A role
that is `near` another goes where the first member of that one lives, if there is room.

Knows nothing of processes or sockets. Used by `launch/hosts.py` and `realnet plan --nodes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from realnet.errors import ConfigError
from realnet.topology.plan import Plan, PoolPlan, RolePlan, SlotPlan


class Host(NamedTuple):
    """One machine of a run. 0 cpus or memory: not said, so not checked.

    `elastic`: the role for whose elastic members it is, and for nothing else.
    """

    name: str
    cpus: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    pool: str = ""
    spare: bool = False
    elastic: str = ""


class Place(NamedTuple):
    """Where a slot lives, and which GPUs it has there, by position."""

    host: str
    gpus: tuple[int, ...] = ()


@dataclass
class _Room:
    """What is left of a host."""

    host: Host
    cpus: int = 0  # given out
    memory_bytes: int = 0
    free_gpus: list[int] = field(default_factory=list)
    slots: set[str] = field(default_factory=set)

    def holds(self, need: _Need, times: int = 1) -> bool:
        host = self.host
        return (
            len(self.free_gpus) >= need.gpus * times
            and (not host.cpus or self.cpus + need.cpus * times <= host.cpus)
            and (
                not host.memory_bytes
                or self.memory_bytes + need.memory_bytes * times <= host.memory_bytes
            )
        )


class _Need(NamedTuple):
    """What one process needs."""

    cpus: int
    gpus: int
    memory_bytes: int


class Placement:
    """The slots of a plan on the hosts that there are."""

    def __init__(self, plan: Plan):
        self.places: dict[str, Place] = {}
        self._plan = plan
        self._slots = {s.name: s for s in plan.slots}
        self._rooms: dict[str, _Room] = {}

    @property
    def hosts(self) -> list[Host]:
        """The hosts that there are."""
        return [room.host for room in self._rooms.values()]

    def add(self, host: Host) -> None:
        """There is one more host."""
        self._rooms[host.name] = _Room(host, free_gpus=list(range(host.gpus)))

    def remove(self, host: str) -> list[str]:
        """A host is gone: return the slots that lived there. They have no place then.

        A spare steps in for it, in its pool.
        """
        gone = [s for s, place in self.places.items() if place.host == host]
        for slot in gone:
            self.free(slot)
        room = self._rooms.pop(host, None)
        pools = ("", room.host.pool if room is not None else "")
        spares = [r for r in self._rooms.values() if r.host.spare and r.host.pool in pools]
        if room is not None and spares and not room.host.spare and not room.host.elastic:
            spares[0].host = spares[0].host._replace(spare=False, pool=room.host.pool)
        return gone

    def free(self, slot: str) -> None:
        """A slot gives up its place."""
        place = self.places.pop(slot, None)
        room = self._rooms.get(place.host) if place is not None else None
        if place is None or room is None:
            return
        need = self._need(self._slots[slot])
        room.slots.discard(slot)
        room.cpus -= need.cpus
        room.memory_bytes -= need.memory_bytes
        room.free_gpus = sorted([*room.free_gpus, *place.gpus])

    def place_all(self) -> list[str]:
        """Give every slot of the plan a place; return the slots for which there is none."""
        units = dict.fromkeys(s.gang or s.name for s in self._plan.slots if not s.elastic)
        ordered = sorted(units, key=lambda u: self._order(self._unit(u)))
        return [u for u in ordered if not self.place(u)]

    def place(self, slot: str) -> bool:
        """Give a slot a place, and with it all of its gang that has none. False: no room."""
        members = self._unit(self._slots[slot].gang or slot)
        homeless = [s for s in members if s.name not in self.places]
        if not homeless:
            return True
        chosen = self._together(homeless) or self._apart(homeless)
        if chosen is None:
            return False
        for member, room in zip(homeless, chosen, strict=True):
            self._take(member, room)
        return True

    # ------------------------------------------------------------ choices

    def _together(self, slots: Sequence[SlotPlan]) -> list[_Room] | None:
        need = self._need(slots[0])
        rooms = [r for r in self._rooms_for(slots[0]) if r.holds(need, len(slots))]
        if not rooms:
            return None
        best = min(rooms, key=lambda r: self._score(r, slots[0], need))
        return [best] * len(slots)

    def _apart(self, slots: Sequence[SlotPlan]) -> list[_Room] | None:
        """A gang that no host can hold: neighbouring ranks stay together."""
        if len(slots) == 1:
            return None
        need, chosen = self._need(slots[0]), list[_Room]()
        rooms = sorted(
            self._rooms_for(slots[0]), key=lambda r: (r.host.spare, -self._times(r, need, slots))
        )
        for room in rooms:
            chosen += [room] * min(self._times(room, need, slots), len(slots) - len(chosen))
        return chosen if len(chosen) == len(slots) else None

    def _times(self, room: _Room, need: _Need, slots: Sequence[SlotPlan]) -> int:
        return max(n for n in range(len(slots) + 1) if room.holds(need, n))

    def _score(self, room: _Room, slot: SlotPlan, need: _Need) -> tuple[float, ...]:
        """Less is better."""
        role = slot.roles[0]
        near = self._role(slot).near
        apart = near and not any(s.rpartition("/")[0] == near for s in room.slots)
        same = sum(s.rpartition("/")[0] == role for s in room.slots)
        load = room.cpus / room.host.cpus if room.host.cpus else float(room.cpus)
        left = len(room.free_gpus)
        if need.gpus:  # packed: what is left over stays in one piece
            return (room.host.spare, bool(apart), left, same, load)
        return (room.host.spare, bool(apart), same, load, room.host.gpus > 0)

    def _rooms_for(self, slot: SlotPlan) -> list[_Room]:
        rooms, pool = list(self._rooms.values()), self._role(slot).pool
        if slot.elastic:
            return [r for r in rooms if r.host.elastic == slot.roles[0]]
        rooms = [r for r in rooms if not r.host.elastic]
        # Where every host has its pool, a role without one may go anywhere.
        shared = not pool and all(r.host.pool or r.host.spare for r in rooms)
        any_pool = [r for r in rooms if r.host.spare and not r.host.pool]
        return [r for r in rooms if shared or r.host.pool == pool or r in any_pool]

    # ------------------------------------------------------------ what slots need

    def _unit(self, name: str) -> list[SlotPlan]:
        return [s for s in self._plan.slots if (s.gang or s.name) == name]

    def _role(self, slot: SlotPlan) -> RolePlan:
        return self._plan.roles[slot.roles[0]]

    def _need(self, slot: SlotPlan) -> _Need:
        roles = [self._plan.roles[r] for r in slot.roles]
        return _Need(
            max(r.cpus for r in roles),
            max(r.gpus for r in roles),
            max(r.memory_bytes for r in roles),
        )

    def _order(self, unit: Sequence[SlotPlan]) -> tuple[bool, int, int]:
        need = self._need(unit[0])
        return (bool(self._role(unit[0]).near), -len(unit) * need.gpus, -len(unit))

    def _take(self, slot: SlotPlan, room: _Room) -> None:
        need = self._need(slot)
        self.places[slot.name] = Place(room.host.name, tuple(room.free_gpus[: need.gpus]))
        del room.free_gpus[: need.gpus]
        room.cpus += need.cpus
        room.memory_bytes += need.memory_bytes
        room.slots.add(slot.name)

    def complaint(self, slots: Iterable[str]) -> str:
        """Say what there is no room for, and what the hosts have."""
        wants = []
        for name in slots:
            unit = self._unit(self._slots[name].gang or name)
            cpus, gpus, memory = self._need(unit[0])
            each = f"{cpus} cores" + (f", {gpus} GPUs" if gpus else "")
            each += f", {memory / 2**30:.3g} GiB" if memory else ""
            many = f"{len(unit)} x ({each})" if len(unit) > 1 else each
            pool = self._role(unit[0]).pool
            wants.append(f"{name} ({many}{f' in pool {pool}' if pool else ''})")
        have = ", ".join(
            f"{h.name}: {h.cpus or '?'} cores, {h.gpus} GPUs{f', pool {h.pool}' if h.pool else ''}"
            for h in self.hosts
        )
        return f"there is no room for {'; '.join(wants)}. The hosts: {have or 'none'}"


def spread(plan: Plan, address: str) -> Plan:
    """Return the plan of a run over several hosts, whose head listens on `address`: links over
    tcp with keys, and a slot for each member that an elastic role may grow to. One that is such a
    plan already stays as it is.
    """
    slots = [s for s in plan.slots if not s.elastic]
    for name, role in plan.roles.items():
        if role.place or role.max <= role.count:
            continue
        first = next(s for s in plan.slots if s.name == f"{name}/0")
        for index in range(role.count, role.max):
            leader = f"{name}/{index}"
            gang = leader if role.ranks > 1 else ""
            for rank in range(role.ranks):
                slots.append(
                    msgspec.structs.replace(
                        first,
                        name=f"{leader}.{rank}" if rank else leader,
                        index=index,
                        roles=first.roles if not rank else (name,),
                        rank=rank,
                        gang=gang,
                        elastic=True,
                    )
                )
    run = {**plan.run, "transport": "tcp", "security": "curve", "host": address}
    return msgspec.structs.replace(plan, slots=tuple(slots), run=run)


def place_on(plan: Plan, num_hosts: int, num_spares: int, each: Host) -> Placement:
    """Return who would live where on hosts that have what `each` has.

    Without GPUs in `each`: as many as the topology needs, divided. Raises ConfigError naming what
    there is no room for.
    """
    hosts = [each] * (num_hosts + num_spares)
    if not each.gpus:
        pools = [h.pool for h in assigned_pools(_named(hosts), plan.pools, num_spares)]
        gpus = {p: gpus_each(plan, pools.count(p), p) for p in pools if p}
        shared = gpus_each(plan, num_hosts)
        hosts = [each._replace(gpus=max(shared, gpus.get(p, 0))) for p in pools]
    return place_among(plan, hosts, num_spares)


def place_among(plan: Plan, hosts: Sequence[Host], num_spares: int = 0) -> Placement:
    """Return who would live where among these hosts, which get names; the last are spares.

    Raises ConfigError naming what there is no room for.
    """
    placement = Placement(spread(plan, "127.0.0.1"))
    for one in assigned_pools(_named(hosts), plan.pools, num_spares):
        placement.add(one)
    left = placement.place_all()
    if left:
        raise ConfigError(placement.complaint(left))
    return placement


def _named(hosts: Sequence[Host]) -> list[Host]:
    return [host._replace(name=f"node-{n}") for n, host in enumerate(hosts)]


def gpus_each(plan: Plan, num_hosts: int, pool: str = "") -> int:
    """GPUs of a host (of a pool, if one is given) where nobody says: what is asked for, divided,
    and no process cut in two.
    """
    roles = [r for r in plan.roles.values() if not r.place and r.gpus and pool in ("", r.pool)]
    total = sum(r.gpus * r.count * r.ranks for r in roles)
    return max([-(-total // num_hosts), *(r.gpus for r in roles)])


def placement_lines(placement: Placement) -> list[str]:
    """Return who lives where, a line for each host."""
    lines = []
    for host in placement.hosts:
        names = [
            slot + (f" (GPU {', '.join(map(str, at.gpus))})" if at.gpus else "")
            for slot, at in placement.places.items()
            if at.host == host.name
        ]
        pool = f" [{host.pool}]" if host.pool else ""
        lines.append(f"{host.name}{pool}: {', '.join(names) or 'nothing: a spare'}")
    return lines


def assigned_pools(
    hosts: Sequence[Host], pools: Mapping[str, PoolPlan], num_spares: int = 0
) -> list[Host]:
    """Return the hosts with their pools: by name where a pool names its hosts, then in order as
    many as each asks for (`nodes`). The last `num_spares` are spares of all pools. A host that
    has its pool already keeps it.
    """
    regular = list(hosts[: len(hosts) - num_spares])
    left = {h.name: h for h in regular if not h.pool}
    given: dict[str, str] = {}
    for pool in pools.values():
        for name in pool.hosts:
            if left.pop(name, None) is not None:
                given[name] = pool.name
    for pool in pools.values():
        for name in list(left)[: pool.nodes]:
            given[name] = pool.name
            del left[name]
    open_pools = [p.name for p in pools.values() if not p.nodes and not p.hosts]
    for at, name in enumerate(left):
        if open_pools:
            given[name] = open_pools[at % len(open_pools)]
    spares = [h._replace(spare=True) for h in hosts[len(hosts) - num_spares :]] * bool(num_spares)
    return [h._replace(pool=given.get(h.name, h.pool)) for h in regular] + spares


def spares_of_pools(hosts: Sequence[Host], wanted: Mapping[str, int]) -> list[Host]:
    """Return hosts that have their pools, those beyond what each pool wants as its spares."""
    seen: dict[str, int] = {}
    told = []
    for host in hosts:
        seen[host.pool] = seen.get(host.pool, 0) + 1
        told.append(host._replace(spare=seen[host.pool] > wanted.get(host.pool, 0)))
    return told
