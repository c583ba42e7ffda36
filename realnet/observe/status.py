"""status.json: what a run is doing now, for whoever asks from another terminal.

The head writes it once a second (whole or not at all); `realnet top`, `why` and `ls` read it. Knows
nothing of roles. `chain` follows waits from the end of the work to whoever holds everything up.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import msgspec

from realnet import host
from realnet.errors import RunFolderError
from realnet.topology.plan import Plan

BUSY = 0.02  # below this share an actor counts as idle
ELSEWHERE_S = 20.0  # a network file system may show a file's time that late
SILENT_S = 1.5  # beats come four times a second


class PortStatus(msgspec.Struct):
    """One port: how many ended here, how many a second, how many wait, how many are under way."""

    done: int = 0
    per_s: float = 0.0
    waiting: int = 0
    held: int = 0


def in_words(ports: dict[str, PortStatus]) -> str:
    """Return the ports of an actor in short: "numbers 120/s (5 wait, 8 open)"."""
    names = {"": "answers", "?": "asks"}
    words = []
    for name, port in ports.items():
        state = [f"{port.waiting} wait"] if port.waiting else []
        state += [f"{port.held} open"] if port.held else []
        digits = ".2g" if 0 < port.per_s < 10 else ".0f"
        more = f" ({', '.join(state)})" if state else ""
        words.append(f"{names.get(name, name)} {port.per_s:{digits}}/s{more}")
    return "  ".join(words)


class ActorStatus(msgspec.Struct):
    """One actor: its own words, its waits (on what, seconds, on whom), its share of busy time."""

    doing: str = ""
    waits: list[tuple[str, float, tuple[str, ...]]] = []
    busy: float = 0.0
    ports: dict[str, PortStatus] = {}


class SlotStatus(msgspec.Struct):
    """One process. `silent_s` is since its last beat, `since_s` how long it is in its state.

    `host` is where it lives, in a run over several.
    """

    state: str
    pid: int = 0
    restarts: int = 0
    failure: str = ""
    actors: dict[str, ActorStatus] = {}
    silent_s: float = 0.0
    since_s: float = 0.0
    host: str = ""


class RunStatus(msgspec.Struct):
    """A whole run. `end` is empty while it goes on. `pid` is of its head, on `host`."""

    name: str
    pid: int
    attempt: int
    age_s: float
    end: str = ""
    slots: dict[str, SlotStatus] = {}
    host: str = ""


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
    if status.end:
        return status
    if elsewhere(status):
        silent_s = time.time() - path.stat().st_mtime
        if silent_s > ELSEWHERE_S:
            status.end = (
                f"its head on {status.host} has written nothing for {silent_s:.0f} s: it is gone, "
                "or between two lives of its job"
            )
    elif not _alive(status.pid):
        status.end = f"its head (pid {status.pid}) is gone without a last word; go on with --resume"
    return status


def elsewhere(status: RunStatus) -> bool:
    """Tell whether the head of a run is on another host: its pid means nothing here."""
    return bool(status.host) and status.host != platform.node()


def _alive(pid: int) -> bool:
    return "realnet" in host.command_of(pid)


def chain(plan: Plan, status: RunStatus) -> list[str]:
    """Return the lines from the end of the work to the blocker, indented by how deep they are.

    A wait that names nobody is followed to neighbours that are not up, else upstream, along share
    wires: it is for work to come.
    """
    return _Chain(plan, status).lines()


class _Chain:
    """Follows the waits of one state of a run."""

    def __init__(self, plan: Plan, status: RunStatus):
        self._plan, self._status = plan, status
        self._actors = {n: a for slot in status.slots.values() for n, a in slot.actors.items()}
        self._slot_of = {
            f"{role}/{slot.name.rpartition('/')[2]}": slot.name
            for slot in plan.slots
            for role in slot.roles
        }
        self._seen: set[str] = set()
        self._lines: list[str] = []

    def lines(self) -> list[str]:
        """Return the whole chain."""
        slots = self._status.slots
        self._lines = [f"{name} {_state(s)}" for name, s in slots.items() if _is_down(s)]
        shares = [w for w in self._plan.wires if w.kind == "share"]
        ends = {w.to_role for w in shares} - {w.from_role for w in shares}
        last = [n for n in self._actors if _role(n) in ends] or list(self._actors)
        for name in sorted(last):
            if name not in self._seen:
                self._follow(name, 0)
        return self._lines

    def _follow(self, name: str, depth: int) -> None:
        indent = "  " * depth
        slot = self._status.slots.get(self._slot_of.get(name, name))
        actor = self._actors.get(name)
        if name in self._seen:
            self._lines.append(f"{indent}{name} (see above)")
        elif slot is not None and (actor is None or _is_down(slot)):
            self._lines.append(f"{indent}{name} {_state(slot)} <- it holds this up")
        elif actor is None:
            self._lines.append(f"{indent}{name} is not there")
        elif slot is not None and slot.silent_s > SILENT_S:
            last = f" (last: {actor.doing})" if actor.doing else ""
            self._lines.append(
                f"{indent}{name} has not answered for {slot.silent_s:.1f} s{last} "
                "<- it holds this up"
            )
        else:
            self._seen.add(name)
            for other in self._alive(name, actor, indent):
                if other != name:
                    self._follow(other, depth + 1)
        self._seen.add(name)

    def _alive(self, name: str, actor: ActorStatus, indent: str) -> tuple[str, ...]:
        """Add the line of one that is up; return whom to follow."""
        upstream = {
            w.from_role for w in self._plan.wires if w.kind == "share" and w.to_role == _role(name)
        }
        if actor.waits:
            on, age_s, whom = actor.waits[0]
            busy = f", {actor.busy:.0%} busy" if actor.busy > BUSY else ""
            self._lines.append(f"{indent}{name} waits {age_s:.1f} s for {on}{busy}")
            if whom:
                return whom
        elif actor.busy > BUSY or not upstream:
            what = actor.doing or ("works" if actor.busy > BUSY else "has nothing to do")
            self._lines.append(
                f"{indent}{name}: {what} ({actor.busy:.0%} busy) <- nothing holds it up"
            )
            return ()
        else:
            self._lines.append(f"{indent}{name} is idle: no work comes")
        missing = self._missing(name)
        return missing or tuple(n for n in sorted(self._actors) if _role(n) in upstream)

    def _missing(self, name: str) -> tuple[str, ...]:
        """Return the members that are not up of roles that this one is wired to."""
        wired = {
            w.to_role if w.from_role == _role(name) else w.from_role
            for w in self._plan.wires
            if _role(name) in (w.from_role, w.to_role)
        }
        return tuple(
            n
            for n, slot in sorted(self._slot_of.items())
            if _role(n) in wired
            and slot in self._status.slots
            and _is_down(self._status.slots[slot])
        )


def _role(name: str) -> str:
    return name.rpartition("/")[0]


def _is_down(slot: SlotStatus) -> bool:
    return slot.state not in ("up", "stopped", "guest", "absent")


def _state(slot: SlotStatus) -> str:
    """Say what a slot that is not up is doing, since when, and why it is not up."""
    age = f" for {slot.since_s:.1f} s" if slot.since_s else ""
    again = f" (restart {slot.restarts})" if slot.restarts else ""
    why = f"; it died: {slot.failure}" if slot.failure else ""
    return f"is {slot.state}{age}{again}{why}"


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
