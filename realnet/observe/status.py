"""status.json: what a run is doing now, for whoever asks from another terminal.

The head writes it once a second (whole or not at all); `realnet top`, `why` and `ls` read it. Knows
nothing of roles. `chain` follows waits from the end of the work to whoever holds everything up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from realnet.errors import RunFolderError
from realnet.topology.plan import Plan

BUSY = 0.02  # below this share an actor counts as idle


class ActorStatus(msgspec.Struct):
    """One actor: its own words, its waits (on what, seconds, on whom), its share of busy time."""

    doing: str = ""
    waits: list[tuple[str, float, tuple[str, ...]]] = []
    busy: float = 0.0


class SlotStatus(msgspec.Struct):
    """One process."""

    state: str
    pid: int = 0
    restarts: int = 0
    failure: str = ""
    actors: dict[str, ActorStatus] = {}


class RunStatus(msgspec.Struct):
    """A whole run. `end` is empty while it goes on."""

    name: str
    pid: int
    attempt: int
    age_s: float
    end: str = ""
    slots: dict[str, SlotStatus] = {}


def write_status(status: RunStatus, folder: Path) -> None:
    """Write status.json, replacing the old one in one move."""
    part = folder / ".status.tmp"
    part.write_bytes(msgspec.json.encode(status))
    os.replace(part, folder / "status.json")


def read_status(folder: Path) -> RunStatus:
    """Read status.json. Raises RunFolderError; says so when the run was killed without a word."""
    path = folder / "status.json"
    try:
        status = msgspec.json.decode(path.read_bytes(), type=RunStatus)
    except FileNotFoundError:
        raise RunFolderError(f"{folder} has no status.json: no run has begun there") from None
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from None
    if not status.end and not _alive(status.pid):
        status.end = f"its head (pid {status.pid}) is gone without a last word; go on with --resume"
    return status


def _alive(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"realnet" in words


def chain(plan: Plan, status: RunStatus) -> list[str]:
    """Return the lines from the end of the work to the blocker, indented by how deep they are.

    A wait that names nobody is for work to come: it is followed upstream, along share wires.
    """
    actors = {n: a for slot in status.slots.values() for n, a in slot.actors.items()}
    down = {n: s.state for n, s in status.slots.items() if s.state not in ("up", "stopped")}
    lines = [f"{name} is {state}" for name, state in down.items()]
    givers = {w.from_role for w in plan.wires if w.kind == "share"}
    takers = {w.to_role for w in plan.wires if w.kind == "share"}
    ends = [n for n in actors if n.rpartition("/")[0] in takers - givers] or list(actors)
    seen: set[str] = set()
    for name in sorted(ends):
        _follow(name, 0, plan, actors, seen, lines)
    return lines


def _follow(
    name: str,
    depth: int,
    plan: Plan,
    actors: dict[str, ActorStatus],
    seen: set[str],
    lines: list[str],
) -> None:
    indent = "  " * depth
    actor = actors.get(name)
    if actor is None:
        lines.append(f"{indent}{name} is not there")
        return
    if name in seen:
        lines.append(f"{indent}{name} (see above)")
        return
    seen.add(name)
    role = name.rpartition("/")[0]
    upstream = {w.from_role for w in plan.wires if w.kind == "share" and w.to_role == role}
    whom: tuple[str, ...] = ()
    if actor.waits:
        on, age_s, whom = actor.waits[0]
        busy = f", {actor.busy:.0%} busy" if actor.busy > BUSY else ""
        lines.append(f"{indent}{name} waits {age_s:.1f} s for {on}{busy}")
    elif actor.busy > BUSY or not upstream:
        what = actor.doing or ("works" if actor.busy > BUSY else "has nothing to do")
        lines.append(f"{indent}{name}: {what} ({actor.busy:.0%} busy) <- nothing holds it up")
        return
    else:
        lines.append(f"{indent}{name} is idle: no work comes")
    following = whom or tuple(n for n in sorted(actors) if n.rpartition("/")[0] in upstream)
    for other in following:
        if other != name:
            _follow(other, depth + 1, plan, actors, seen, lines)


def busy_shares(spans: dict[str, Any], now_s: float, window_s: float = 5.0) -> dict[str, float]:
    """Return each actor's share of the last seconds in which its compute was busy."""
    since_s = now_s - window_s
    shares = {}
    for actor, mine in spans.items():
        covered = 0.0
        for start_s, end_s in reversed(mine):
            if end_s <= since_s:
                break
            covered += min(end_s, now_s) - max(start_s, since_s)
        shares[actor] = min(1.0, covered / window_s)
    return shares
