"""A plan told in words: where what runs, who talks to whom and why, and what is bounded by what.

Knows nothing of topology files. Called by `realnet plan`.
"""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from realnet.actor import Actor, Beside, Need, Place
from realnet.config import Config, read_table
from realnet.ports import Inlet, declared_handlers, declared_ports
from realnet.topology.draw.graph import note_of
from realnet.topology.kinds import load_kind
from realnet.topology.memory import Used, words_of
from realnet.topology.plan import Plan, RolePlan, SlotPlan
from realnet.topology.resolve import shared_values

EMPTY_BYTES = 40 * 2**20  # resident, a member without roles: Python 3.11 to 3.13, Linux
MIB = 2**20
REMARKS = "what roles will do"


def describe(plan: Plan) -> str:
    """Return the text of `realnet plan`."""
    told = _Told(plan)
    sections = (
        (f"processes ({len(plan.slots)} and the head)", told.processes()),
        ("placement", told.placement()),
        (f"wires ({len(plan.wires)})", told.wires()),
        ("limits", told.limits()),
        (REMARKS, told.remarks()),
        ("keys", told.keys()),
        ("tables as opened", told.tables()),
        ("order", told.order()),
    )
    lines = [plan.title, plan.topology]
    for name, rows in sections:
        told_rows = [f"  {row}" for row in rows]
        if told_rows:  # nothing is said of what there is none of
            lines += ["", name, *told_rows]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a plain value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | str):
        return msgspec.json.encode(value).decode()
    return repr(value)


class _Told:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.classes: dict[str, type[Actor[Any]]] = {}
        self.configs: dict[str, Config] = {}
        for name, role in plan.roles.items():
            self.classes[name] = cls = load_kind(role.kind, Path(plan.base), f"[roles.{name}]")
            self.configs[name] = read_table(cls.Config, role.config, f"[roles.{name}]")

    def _need_of(self, slot: SlotPlan) -> Need:
        """Return what the process of a slot needs at least."""
        host, gpu, parts, unknown, lacks = EMPTY_BYTES, 0, dict[str, int](), "", ""
        pool = self.plan.pools.get(self.plan.roles[slot.roles[0]].pool)
        each = pool.gpu_memory_bytes if pool is not None else 0
        for name in slot.roles:
            cls, role = self.classes[name], self.plan.roles[name]
            shared = shared_values(cls, role.policy, self.plan.shared)
            gpus = role.gpus or self.plan.roles[slot.roles[0]].gpus
            beside = self._beside(role)
            place = Place(Path(self.plan.base), role.ranks, gpus, slot.rank, beside, each)
            need = cls.needs(self.configs[name], shared, place)
            host, gpu, unknown = host + need.host_bytes, gpu + need.gpu_bytes, need.unknown
            lacks = lacks or need.lacks
            for what, size in need.parts.items():
                parts[what] = parts.get(what, 0) + size
        return Need(host, gpu, parts, unknown, lacks)

    def processes(self) -> Iterable[str]:
        total = 0
        used = Used(self.plan)
        for slot in self.plan.slots:
            role = self.plan.roles[slot.roles[0]]
            needs = _counted(role.cpus, "core")
            if role.gpus:
                needs += f", {_counted(role.gpus, 'GPU')}"
            need = self._need_of(slot)
            total += need.host_bytes
            used.add(slot, need)
            memory = f"at least {need.host_bytes / MIB:.0f} MiB"
            if role.memory_bytes:
                memory += f" of {role.memory_bytes / MIB:.0f}"
            also = f", with {', '.join(slot.roles[1:])}" if slot.roles[1:] else ""
            gang = f", rank {slot.rank} of gang {slot.gang}" if slot.gang else ""
            before = f", started by {shlex.join(role.spawn)}" if role.spawn else ""
            yield f"{slot.name:<20} {role.kind}{also}{gang}: {needs}, {memory}{before}"
            yield from words_of(need)
        yield f"{'together':<20} at least {(total + EMPTY_BYTES) / MIB:.0f} MiB, with the head"
        yield from used.problems()

    def remarks(self) -> Iterable[str]:
        """Say what roles say of themselves, for the roles beside them."""
        for name, role in self.plan.roles.items():
            cls = self.classes[name]
            shared = shared_values(cls, role.policy, self.plan.shared)
            said = cls.remarks(self.configs[name], shared, self._beside(role))
            yield from (f"{name:<20} {remark}" for remark in said)

    def _beside(self, role: RolePlan) -> dict[str, Beside]:
        """Return the roles of a role's network: those that work on its policy, or on none."""
        return {
            other: Beside(self.configs[other], plan.count, plan.kind)
            for other, plan in self.plan.roles.items()
            if not role.policy or plan.policy in ("", role.policy)
        }

    def tables(self) -> Iterable[str]:
        """Show the tables inside roles' tables: a preset is told with all its fields."""
        for name, role in self.plan.roles.items():
            for key, table in role.config.items():
                if not isinstance(table, dict) or not table:
                    continue
                yield f"roles.{name}.{key}"
                fields = [f"{k} = {_toml(v)}" for k, v in table.items() if v is not None]
                yield from textwrap.wrap(
                    ", ".join(fields), 92, initial_indent="  ", subsequent_indent="  "
                )

    def placement(self) -> Iterable[str]:
        pools: dict[str, list[RolePlan]] = {}
        for role in self.plan.roles.values():
            if not role.place:
                pools.setdefault(role.pool, []).append(role)
        for name, roles in pools.items():
            pool = self.plan.pools.get(name)
            cpus = sum(r.cpus * r.count * r.ranks for r in roles)
            gpus = sum(r.gpus * r.count * r.ranks for r in roles)
            wants = _counted(cpus, "core") + (f" and {_counted(gpus, 'GPU')}" if gpus else "")
            hosts = f" ({', '.join(pool.hosts)})" if pool and pool.hosts else ""
            where = f"pool {name}{hosts}" if name else "this machine"
            names = ", ".join(r.name for r in roles)
            yield f"{where}: {names}; they ask for {wants}"
        if "" in pools or not any(p.hosts for p in self.plan.pools.values()):
            yield f"this machine has {_counted(os.cpu_count() or 1, 'core')}"

    def wires(self) -> Iterable[str]:
        for wire in self.plan.wires:
            options = [
                text
                for text, given in (
                    (f"room for {wire.feedback} kept: it closes a circle", wire.feedback),
                    (f"equal {wire.affinity} to one member", wire.affinity),
                    (f"deadline {wire.deadline_s:g} s", wire.deadline_s),
                )
                if given
            ]
            yield f"{wire.kind:<6} {wire!s:<58} {'; '.join([wire.why, *options])}"

    def limits(self) -> Iterable[str]:
        for name, role in self.plan.roles.items():
            said = [note_of(role)] if role.max > role.count or role.ranks > 1 else []
            if not role.place:
                said.append(
                    f"at most {role.restarts} restarts in {role.restart_per_s:g} s"
                    if role.restarts
                    else "never started again"
                )
                said[-1] += ", then the run goes on without it" * (role.restart_then == "drop")
            for port in declared_ports(self.classes[name]).values():
                if isinstance(port, Inlet):
                    bounds = port.bounds(self.configs[name])
                    said.append(
                        f"{port.name}: {bounds.window} in hand, "
                        f"{bounds.window_bytes / MIB:g} MiB, lease {bounds.lease_s:g} s"
                    )
            if declared_handlers(self.classes[name]):
                mailbox = self.classes[name].mailbox
                said.append(
                    f"mailbox: {mailbox.messages} messages, {mailbox.bytes / MIB:g} MiB, then "
                    "Overloaded"
                )
            if role.progress_s:
                then = "restarted" if role.progress_then == "restart" else "reported"
                said.append(f"{then} after {role.progress_s:g} s without progress")
            yield f"{name:<20} {'; '.join(said) or 'those of its process'}"
        run = self.plan.run
        yield (
            f"{'the run':<20} a silent instance is suspected after {run['suspect']:g} s, killed "
            f"after {run['hung']:g} s; an orderly stop takes at most {run['grace']:g} s"
        )

    def keys(self) -> Iterable[str]:
        run, slots = self.plan.run, self.plan.slots
        if run["security"] == "curve":
            yield f"CURVE over {run['transport']}: one key for the head, one for each of:"
            yield ", ".join(s.name for s in slots)
            if run["transport"] == "tcp" and run["bulk"] == "signed":
                yield "large arrays of asks: signed, not encrypted"
        else:
            kept = "; sockets lie in a folder that only this user opens"
            yield f"none over {run['transport']}{kept if run['transport'] == 'ipc' else ''}"
        for name, role in self.plan.roles.items():
            for secret in role.secrets:
                state = "set" if secret in os.environ else "NOT set"
                yield f"{secret}: for {name} only; {state} in this shell"

    def order(self) -> Iterable[str]:
        stages = [" + ".join(stage) for stage in self.plan.stop_order]
        yield "start  " + ", then ".join(reversed(stages))
        yield "stop   " + ", then ".join(stages)


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' if number != 1 else ''}"
