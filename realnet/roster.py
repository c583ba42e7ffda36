"""What the head knows of each slot from its beats, and the run's state made of it for views.

Rates are of the last seconds: counts grow with every beat, and the oldest that is kept is compared
with the newest. Knows nothing of sockets or decisions. Kept by `head.py`; read by `run.py`, views.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from realnet.control import Doing, Figures, Join
from realnet.observe.record import Busy
from realnet.observe.status import ActorStatus, PortStatus, SlotStatus, busy_shares
from realnet.supervision import Slot

RATE_S = 5.0
SAME_CLOCK_S = 2.0  # clocks of one host differ by what a message takes; of two, by their boots


class Rate:
    """A growing count, and how fast it has grown in the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, count: int, now_s: float) -> None:
        """The count is this now."""
        self._seen.append((now_s, count))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= RATE_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float:
        """How many a second."""
        if len(self._seen) < 2:
            return 0.0
        (since_s, first), (now_s, last) = self._seen[0], self._seen[-1]
        return max(0.0, (last - first) / (now_s - since_s)) if now_s > since_s else 0.0


class Beats(Protocol):
    """What a beat says, whoever sent it."""

    @property
    def doing(self) -> tuple[Doing, ...]: ...


class Status:
    """What is known of one life of a slot. `failure` is why it ended, or is about to.

    `lost`: it did not fail by itself (it hung, never joined, or its link broke). `died` is why the
    life before this one ended.
    """

    def __init__(self, died: str = "") -> None:
        self.pid = 0
        self.died = died
        self.doing: dict[str, str] = {}
        self.waits: dict[str, tuple[tuple[str, float, tuple[str, ...]], ...]] = {}
        self.figures: dict[str, tuple[Figures, ...]] = {}
        self.rates: dict[tuple[str, str], Rate] = {}
        self.failure = ""
        self.lost = False
        self.beat_s: float | None = None

    def beat(self, beat: Beats, now_s: float) -> None:
        """A beat came in."""
        self.beat_s = now_s
        for doing in beat.doing:
            self.doing[doing.actor] = doing.text
            self.waits[doing.actor] = doing.waits
            self.figures[doing.actor] = doing.figures
            for port in doing.figures:
                rate = self.rates.setdefault((doing.actor, port.port), Rate())
                rate.add(port.done, now_s)

    def ports(self, actor: str) -> dict[str, PortStatus]:
        """The ports of an actor in figures, with rates."""
        return {
            f.port: PortStatus(f.done, self.rates[actor, f.port].per_s, f.waiting, f.held)
            for f in self.figures.get(actor, ())
        }


def actor_statuses(status: Status, shares: dict[str, float]) -> dict[str, ActorStatus]:
    """Return the state of the actors of one process; `shares` is how busy each of them is."""
    return {
        actor: ActorStatus(
            text, list(status.waits.get(actor, ())), shares.get(actor, 0.0), status.ports(actor)
        )
        for actor, text in status.doing.items()
    }


def ahead_of(request: Join, now_s: float, clock: str) -> float:
    """Return how far our clock is ahead of a process's that joins: 0 when it is the same one.

    Where clocks have no names, a small difference is what the message took to come.
    """
    if not request.clock_s or (clock and request.clock == clock):
        return 0.0
    ahead_s = now_s - request.clock_s
    return ahead_s if abs(ahead_s) > SAME_CLOCK_S else 0.0


def slot_statuses(
    known: dict[str, Status], slots: dict[str, Slot], busy: Busy, now_s: float
) -> dict[str, SlotStatus]:
    """Return the state of every slot, for status.json and for the chain of waits."""
    shares = busy_shares(busy.spans, now_s)
    found = {}
    for name, status in known.items():
        slot = slots[name]
        silent_s = now_s - status.beat_s if status.beat_s is not None else 0.0
        actors = actor_statuses(status, shares)
        found[name] = SlotStatus(
            *(slot.state, status.pid, slot.restarts, status.failure or status.died, actors),
            *(silent_s, now_s - slot.since_s),
        )
    return found
