"""The plan of a run: what a topology means, with nothing left to decide.

Plain data, written to the run's folder as plan.json; every process reads it from there. Knows
nothing of how it was made (`resolve.py`) or how it is carried out (`head.py`, `member.py`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from realnet.errors import RunFolderError


class WirePlan(msgspec.Struct, frozen=True):
    """One wire: kind is share, ask or state. `to_port` of an ask is empty: handlers answer."""

    kind: str
    from_role: str
    from_port: str
    to_role: str
    to_port: str
    types: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        arrow = {"share": "──▶", "ask": "──?", "state": "╌╌▶"}[self.kind]
        return f"{self.from_role} {arrow} {self.to_role}  {', '.join(self.types)}"


class RolePlan(msgspec.Struct, frozen=True):
    """One role. `place` names the role in whose processes it lives."""

    name: str
    kind: str
    count: int
    config: dict[str, Any]
    policy: str = ""
    place: str = ""
    cpus: int = 1
    gpus: int = 0
    env: dict[str, str] = {}
    restarts: int = 5
    restart_per_s: float = 60.0


class SlotPlan(msgspec.Struct, frozen=True):
    """One process: the roles whose instance `index` lives in it."""

    name: str
    index: int
    roles: tuple[str, ...]
    after: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True):
    """Everything that every process needs to know."""

    name: str
    title: str
    topology: str
    base: str
    roles: dict[str, RolePlan]
    wires: tuple[WirePlan, ...]
    slots: tuple[SlotPlan, ...]
    stop_order: tuple[tuple[str, ...], ...]
    shared: dict[str, dict[str, Any]]
    run: dict[str, Any]

    def digest(self) -> str:
        """Return a short digest; a process checks that it read the plan it was told of."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()


def write_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json into a run's folder."""
    text = msgspec.json.format(msgspec.json.encode(plan), indent=1)
    (folder / "plan.json").write_bytes(text)


def read_plan(folder: Path) -> Plan:
    """Read plan.json from a run's folder. Raises RunFolderError."""
    path = folder / "plan.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise RunFolderError(f"{folder} is not the folder of a run: it has no plan.json") from None
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{path} is damaged ({error}); start the run anew") from None
