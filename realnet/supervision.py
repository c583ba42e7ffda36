"""Who is started, restarted and stopped when, decided without IO.

A slot is one process; it is started, joins the run, has its actors begun when everything it sends
to is up, and is up. When it dies it alone is restarted, with a growing pause, at most `times` per
`per_s` seconds; beyond that the run ends with one message, or (`then = "drop"`) goes on without
this member of a pool while others of it are left. Stopping goes stage by stage, those who make work
before those who take it.

The slots of a gang are one: started together, begun when all of them have joined, up when all are
ready, dead when one is dead, and restarted together, when the last process of the old life is gone,
under one new incarnation. The first slot of a gang leads it and counts its deaths.

Over several hosts a slot may have nowhere to be: one of the plan is then given up, as if its
restarts were used up; an elastic one is absent until it is invited, when a host comes for it.

Knows nothing of processes, sockets or clocks. Called by `head.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Then = Literal["end", "drop"]
Cause = Literal["refused", "failed", "lost"]
BOOT_S = 180.0


class Restart(NamedTuple):
    """How often an instance may be restarted, and what follows when that is used up.

    `then`: "end" ends the run; "drop" gives up this member of a pool, as long as `floor` others
    are left.
    """

    times: int = 5
    per_s: float = 60.0
    then: Then = "end"
    floor: int = 1

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
    """Effect: everybody forgets it; `why` is for people. `with_gang`: another rank died."""

    slot: str
    incarnation: int
    why: str
    with_gang: bool = False


class Kill(NamedTuple):
    """Effect: end the process at once; `why` is for people."""

    slot: str
    why: str


class Drop(NamedTuple):
    """Effect: this member of a pool is given up, the others go on."""

    slot: str
    why: str


class GiveUp(NamedTuple):
    """Effect: the run cannot go on.

    `cause`: "refused" (the same would happen again: a wrong configuration), "failed" (its own
    code), or "lost" (killed from outside, hung, never there: another try may go well).
    """

    slot: str
    why: str
    cause: Cause = "failed"


Effect = Spawn | Begin | Up | Down | Kill | Drop | GiveUp
_ALIVE = ("starting", "joined", "beginning", "ready", "up")


@dataclass
class Slot:
    """What is known of one process. `after` are the slots that must be up before it begins.

    `pool` is the role whose members stand in for each other. `gang`: slots of one name are one.
    """

    name: str
    after: tuple[str, ...] = ()
    restart: Restart = Restart()
    pool: str = ""
    gang: str = ""
    elastic: bool = False
    # waiting absent starting joined beginning ready up dying down dropped stopped
    state: str = "waiting"
    incarnation: int = 0
    since_s: float = 0.0
    restart_at_s: float | None = None
    deaths_s: deque[float] = field(default_factory=deque)
    restarts: int = 0
    given_up: bool = False

    @property
    def coming(self) -> bool:
        """Tell whether it is being started, or will be."""
        return self.state in ("starting", "joined", "beginning", "ready", "dying") or (
            self.state == "down" and self.restart_at_s is not None
        )


class Supervisor:
    """The state of all slots. Every method takes the time and returns effects."""

    def __init__(self, slots: Sequence[Slot], boot_s: float = BOOT_S):
        self.slots = {slot.name: slot for slot in slots}
        self.boot_s = boot_s
        self.stopping = False
        self._gangs: dict[str, list[Slot]] = {}
        for slot in slots:
            self._gangs.setdefault(slot.gang or slot.name, []).append(slot)
            if slot.elastic:
                slot.state = "absent"

    def start(self, now_s: float) -> list[Effect]:
        """Start every process at once: importing takes longest and needs nobody."""
        return [self._spawn(s, now_s) for s in self.slots.values() if s.state == "waiting"]

    def invite(self, name: str, now_s: float) -> list[Effect]:
        """There is a host for one that was absent, or given up for want of one: start it."""
        gang = self.gang_of(name)
        if self.stopping or any(s.state not in ("absent", "dropped") for s in gang):
            return []
        gang[0].given_up = False
        gang[0].deaths_s.clear()
        return [self._spawn(slot, now_s) for slot in gang]

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
        slot.state, slot.since_s = "ready", now_s
        gang = self.gang_of(name)
        if any(s.state != "ready" for s in gang):
            return []
        for s in gang:
            s.state, s.since_s = "up", now_s
        ups: list[Effect] = [Up(s.name, s.incarnation) for s in gang]
        return [*ups, *self._begin_those_that_can(now_s)]

    def exited(
        self,
        name: str,
        incarnation: int,
        now_s: float,
        why: str,
        fatal: bool = False,
        lost: bool = False,
        nowhere: bool = False,
    ) -> list[Effect]:
        """A process ended. `fatal`: a restart would end the same way (a wrong configuration).

        `lost`: nothing in it failed by itself; it was killed from outside, or hung. `nowhere`:
        no host has room for it (any more).
        """
        slot = self.slots.get(name)
        if slot is None or slot.incarnation != incarnation:
            return []
        leader = self.gang_of(name)[0]
        if slot.state == "dying":  # it was told as dead with its gang
            slot.state = "stopped" if self.stopping else "dropped" if leader.given_up else "down"
            return []
        if slot.state not in _ALIVE:
            return []
        if self.stopping:
            slot.state = "stopped"
            return [Down(name, incarnation, why)]
        effects = self._take_down(slot, now_s, why)
        if nowhere and slot.elastic:
            slot.state = "absent"
            return [*effects, *self._begin_those_that_can(now_s)]
        leader.deaths_s.append(now_s)
        while leader.deaths_s and leader.deaths_s[0] < now_s - leader.restart.per_s:
            leader.deaths_s.popleft()
        if fatal:
            return [*effects, GiveUp(name, why, "refused")]
        if nowhere:
            return [*effects, *self._used_up(slot, leader, why, True, now_s)]
        if len(leader.deaths_s) > leader.restart.times:
            text = f"{why}; {leader.restart} are used up"
            return [*effects, *self._used_up(slot, leader, text, lost, now_s)]
        leader.restart_at_s = now_s + min(5.0, 0.1 * 2 ** (len(leader.deaths_s) - 1))
        return effects

    def tick(self, now_s: float) -> list[Effect]:
        """Restart what is due; kill what never joined (that counts as any other death)."""
        effects: list[Effect] = []
        if self.stopping:
            return effects
        for gang in self._gangs.values():
            at_s = gang[0].restart_at_s
            if at_s is not None and now_s >= at_s and all(s.state == "down" for s in gang):
                gang[0].restart_at_s = None
                for slot in gang:
                    slot.restarts += 1
                    effects.append(self._spawn(slot, now_s))
            for slot in gang:
                if slot.state == "starting" and now_s - slot.since_s > self.boot_s:
                    slot.since_s = now_s
                    effects.append(Kill(slot.name, f"did not join within {self.boot_s:g} s"))
        return effects

    def stop(self) -> None:
        """No more restarts; exits are expected from now on."""
        self.stopping = True

    def gang_of(self, name: str) -> list[Slot]:
        """Return the slots that live and die with this one, the leader first."""
        slot = self.slots[name]
        return self._gangs[slot.gang or slot.name]

    def _spawn(self, slot: Slot, now_s: float) -> Spawn:
        slot.incarnation += 1
        slot.state, slot.since_s, slot.restart_at_s = "starting", now_s, None
        return Spawn(slot.name, slot.incarnation)

    def _take_down(self, slot: Slot, now_s: float, why: str) -> list[Effect]:
        """One is dead: so is its gang, whose other processes must go."""
        slot.state, slot.since_s = "down", now_s
        effects: list[Effect] = [Down(slot.name, slot.incarnation, why)]
        for other in self.gang_of(slot.name):
            if other.state in _ALIVE:
                other.state, other.since_s = "dying", now_s
                text = f"{slot.name} of its gang died: {why}"
                effects.append(Down(other.name, other.incarnation, text, with_gang=True))
                effects.append(Kill(other.name, text))
        return effects

    def _used_up(
        self, slot: Slot, leader: Slot, text: str, lost: bool, now_s: float
    ) -> list[Effect]:
        others = [
            gang[0]
            for gang in self._gangs.values()
            if gang[0].pool == leader.pool
            and gang[0] is not leader
            and not gang[0].given_up
            and gang[0].state != "absent"
        ]
        if leader.restart.then != "drop" or not leader.pool or len(others) < leader.restart.floor:
            return [GiveUp(slot.name, text, "lost" if lost else "failed")]
        leader.given_up = True
        for s in self.gang_of(slot.name):
            if s.state == "down":
                s.state = "dropped"
        return [Drop(leader.name, text), *self._begin_those_that_can(now_s)]

    def _begin_those_that_can(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for gang in self._gangs.values():
            # At a restart the others may be down themselves: then nobody waits for anybody.
            free = gang[0].incarnation > 1 or all(self._passable(s, gang) for s in gang)
            if free and all(s.state == "joined" for s in gang) and not self.stopping:
                effects += _begin(gang, now_s)
        whole = [g for g in self._gangs.values() if all(s.state == "joined" for s in g)]
        slots = self.slots.values()
        moving = any(s.state in ("starting", "beginning", "ready", "dying", "down") for s in slots)
        if whole and not effects and not moving and not self.stopping:
            # Processes that hold several roles can wait for each other in a circle: break it.
            effects += _begin(whole[0], now_s)
        return effects

    def _passable(self, slot: Slot, gang: list[Slot]) -> bool:
        """Tell whether all that this slot comes after is up, or will never be."""
        before = (self.slots[n] for n in slot.after)
        return all(s.state in ("up", "dropped", "absent") or s in gang for s in before)


def _begin(gang: list[Slot], now_s: float) -> list[Effect]:
    for slot in gang:
        slot.state, slot.since_s = "beginning", now_s
    return [Begin(slot.name) for slot in gang]
