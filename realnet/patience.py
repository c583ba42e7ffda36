"""How long the head bears with a process that is silent, or makes no progress, and what it does
then: it says so, with who waits for whom, and ends what its policy lets it end; stacks are kept.

Who is silent and who is stalled is decided by `liveness.py` and `stalls.py`. Knows nothing of
records or sockets. Called by `head.py`, with every beat and every tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from realnet.control import Doing
from realnet.launch import Launcher
from realnet.liveness import Beats, Hung
from realnet.observe.status import RunStatus, chain
from realnet.roster import Status
from realnet.stalls import Stalled, Stalls
from realnet.supervision import Supervisor
from realnet.topology.plan import Plan

AWAY_S = 0.5
DUMP_S = 0.3  # what a process that is to be killed has to write its stacks


class Head(Protocol):
    """What is needed of the head."""

    plan: Plan
    supervisor: Supervisor
    status: dict[str, Status]
    beats: Beats
    stalls: Stalls

    @property
    def launcher(self) -> Launcher: ...
    def say(self, text: str, **fields: Any) -> None: ...
    def run_status(self) -> RunStatus: ...


class Patience:
    """What the head watches, and what follows."""

    def __init__(self, head: Head):
        self._head = head
        self.then: dict[str, str] = {}  # actor -> what follows a stall

    def watch(self, slot: str, budgets: Mapping[str, tuple[float, str]], now_s: float) -> None:
        """A process is there: expect its beats, and progress of each of its roles."""
        self._head.beats.watch(slot, now_s)
        index = slot.rpartition("/")[2]  # with the rank, if it is of a gang
        for role, (budget_s, then) in budgets.items():
            self._head.stalls.watch(f"{role}/{index}", budget_s, now_s)
            self.then[f"{role}/{index}"] = then

    def beat(self, slot: str, doing: tuple[Doing, ...], now_s: float) -> None:
        """A process lives, and its actors have come so far."""
        for recovered in self._head.beats.beat(slot, now_s):
            self._head.say(f"{slot} answers again after {recovered.silent_s:.1f} s")
        for one in doing:
            self._head.stalls.beat(one.actor, one.ended, one.has_work, now_s)

    def forget(self, slot: str, now_s: float) -> None:
        """A process is dead."""
        self._head.beats.forget(slot)
        for actor in self._head.status[slot].doing:
            self._head.stalls.forget(actor)
        self._head.stalls.moved(now_s)

    def tick(self, now_s: float, late_s: float) -> None:
        """Look at everybody. `late_s`: how long we did not look, though we ought to have."""
        head = self._head
        if late_s > AWAY_S:
            head.say(f"the head itself stood still for {late_s:.1f} s")
            head.beats.away(late_s, now_s)
            head.stalls.away(late_s, now_s)
        for effect in head.beats.tick(now_s):
            if isinstance(effect, Hung):
                self._hung(effect)
            else:
                head.say(f"{effect.name} is silent for {effect.silent_s:.1f} s")
        if not head.supervisor.stopping:
            for stall in head.stalls.tick(now_s):
                self._stalled(stall)

    def _hung(self, effect: Hung) -> None:
        """Kill one that is silent beyond hope, while the run stops as well."""
        doing = "; ".join(text for text in self._head.status[effect.name].doing.values() if text)
        last = f" (last: {doing})" if doing else ""
        self._kill(effect.name, f"has not answered for {effect.silent_s:.1f} s{last}")

    def _stalled(self, stall: Stalled) -> None:
        """Say what holds up one that makes no progress, or the run; do what its policy says.

        One that waits for others is not restarted: that would help nobody.
        """
        head = self._head
        who = stall.name or "the run"
        lines = chain(head.plan, head.run_status())
        text = f"{who} has made no progress for {stall.quiet_s:.1f} s"
        head.say("\n  ".join([f"{text}; who waits for whom:", *lines]), stalled=who)
        slot = next((n for n, s in head.status.items() if stall.name in s.doing), "")
        if slot and self.then.get(stall.name) == "restart":
            waits = head.status[slot].waits.get(stall.name, ())
            if not any(whom for _, _, whom in waits):
                self._kill(slot, f"{text} (its budget)")

    def _kill(self, slot: str, why: str) -> None:
        """End a process that did not fail by itself; its stacks are kept."""
        head = self._head
        status = head.status[slot]
        status.failure, status.lost = why, True
        kept = head.launcher.dump(slot)
        head.say(f"{slot} {why}; killed" + (f" (its stacks: {kept})" if kept else ""))
        life = head.supervisor.slots[slot].incarnation

        def kill() -> None:
            if head.supervisor.slots[slot].incarnation == life:
                head.launcher.kill(slot)

        if kept:
            asyncio.get_running_loop().call_later(DUMP_S, kill)
        else:
            kill()
