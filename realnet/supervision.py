"""Who is started, restarted and stopped when, decided without IO.

A slot is one process; it is started, joins the run, has its actors begun when everything it sends
to is up, and is up. When it dies it alone is restarted, with a growing pause, at most `times` per
`per_s` seconds; beyond that the run ends with one message. Stopping goes stage by stage, those who
make work before those who take it.

Knows nothing of processes, sockets or clocks. Called by `head.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Restart(NamedTuple):
    """How often an instance may be restarted before the run gives up."""

    times: int = 5
    per_s: float = 60.0

    def __str__(self) -> str:
        return f"at most {self.times} restarts in {self.per_s:g} s"


class Spawn(NamedTuple):
    """Effect: start the process of this slot."""

    slot: str
    incarnation: int


class Begin(NamedTuple):
    """Effect: tell the process to start its actors."""

    slot: str


class Up(NamedTuple):
    """Effect: everybody may talk to it."""

    slot: str
    incarnation: int


class Down(NamedTuple):
    """Effect: everybody forgets it; `why` is for people."""

    slot: str
    incarnation: int
    why: str


class GiveUp(NamedTuple):
    """Effect: the run cannot go on."""

    slot: str
    why: str


Effect = Spawn | Begin | Up | Down | GiveUp


@dataclass
class Slot:
    """What is known of one process. `after` are the slots that must be up before it begins."""

    name: str
    after: tuple[str, ...] = ()
    restart: Restart = Restart()
    state: str = "waiting"  # waiting starting joined beginning up down stopped
    incarnation: int = 0
    since_s: float = 0.0
    restart_at_s: float | None = None
    deaths_s: deque[float] = field(default_factory=deque)
    restarts: int = 0


class Supervisor:
    """The state of all slots. Every method takes the time and returns effects."""

    def __init__(self, slots: Sequence[Slot], boot_s: float = 180.0):
        self.slots = {slot.name: slot for slot in slots}
        self.boot_s = boot_s
        self.stopping = False

    def start(self, now_s: float) -> list[Effect]:
        """Start every process at once: importing takes longest and needs nobody."""
        return [self._spawn(slot, now_s) for slot in self.slots.values()]

    def joined(self, name: str, incarnation: int, now_s: float) -> list[Effect]:
        """A process says hello."""
        slot = self.slots.get(name)
        if slot is None or slot.incarnation != incarnation or slot.state != "starting":
            return []
        slot.state, slot.since_s = "joined", now_s
        return self._begin_those_that_can(now_s)

    def ready(self, name: str, incarnation: int, now_s: float) -> list[Effect]:
        """The actors of a process have started."""
        slot = self.slots.get(name)
        if slot is None or slot.incarnation != incarnation or slot.state != "beginning":
            return []
        slot.state, slot.since_s = "up", now_s
        return [Up(name, incarnation), *self._begin_those_that_can(now_s)]

    def exited(
        self, name: str, incarnation: int, now_s: float, why: str, fatal: bool = False
    ) -> list[Effect]:
        """A process ended. `fatal`: a restart would end the same way (a wrong configuration)."""
        slot = self.slots.get(name)
        if slot is None or slot.incarnation != incarnation or slot.state in ("down", "stopped"):
            return []
        down = Down(name, incarnation, why)
        if self.stopping:
            slot.state = "stopped"
            return [down]
        slot.state, slot.since_s = "down", now_s
        slot.deaths_s.append(now_s)
        while slot.deaths_s and slot.deaths_s[0] < now_s - slot.restart.per_s:
            slot.deaths_s.popleft()
        if fatal:
            return [down, GiveUp(name, why)]
        if len(slot.deaths_s) > slot.restart.times:
            return [down, GiveUp(name, f"{why}; {slot.restart} are used up")]
        slot.restart_at_s = now_s + min(5.0, 0.1 * 2 ** (len(slot.deaths_s) - 1))
        return [down]

    def tick(self, now_s: float) -> list[Effect]:
        """Restart what is due; give up on what never joined."""
        effects: list[Effect] = []
        for slot in self.slots.values():
            if self.stopping:
                break
            if slot.state == "down" and slot.restart_at_s is not None:
                if now_s >= slot.restart_at_s:
                    slot.restarts += 1
                    effects.append(self._spawn(slot, now_s))
            elif slot.state == "starting" and now_s - slot.since_s > self.boot_s:
                effects.append(GiveUp(slot.name, f"did not join within {self.boot_s:g} s"))
        return effects

    def stop(self) -> None:
        """No more restarts; exits are expected from now on."""
        self.stopping = True

    def _spawn(self, slot: Slot, now_s: float) -> Spawn:
        slot.incarnation += 1
        slot.state, slot.since_s, slot.restart_at_s = "starting", now_s, None
        return Spawn(slot.name, slot.incarnation)

    def _begin_those_that_can(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for slot in self.slots.values():
            if slot.state != "joined" or self.stopping:
                continue
            # At a restart the others may be down themselves: then nobody waits for anybody.
            if slot.incarnation > 1 or all(self.slots[n].state == "up" for n in slot.after):
                slot.state, slot.since_s = "beginning", now_s
                effects.append(Begin(slot.name))
        joined = [s for s in self.slots.values() if s.state == "joined"]
        moving = any(s.state in ("starting", "beginning", "down") for s in self.slots.values())
        if joined and not effects and not moving and not self.stopping:
            # Processes that hold several roles can wait for each other in a circle: break it.
            joined[0].state, joined[0].since_s = "beginning", now_s
            effects.append(Begin(joined[0].name))
        return effects
