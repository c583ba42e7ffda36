"""One link between two incarnations, decided without IO: nothing lost, nothing doubled, in order.

Batches are numbered. What was sent is kept until the other end has acknowledged it; after a lost
connection it is sent again; repeated batches are dropped, and for a missing one everything from
there on is asked for again. Acknowledgements are cumulative: they ride on batches that go out
anyway, or go alone when nothing does. Whoever waits too long for one probes; the other end answers
a probe with what it has. So a loss is repaired even if nothing more is sent, and a slow end is
never sent anything twice only because it is slow.

What is kept is bounded in bytes: the oldest is forgotten, and if just that is asked for, both ends
are told of a loss, never neither. All this holds while both incarnations live; what a dead one had
is the business of the wires above.

Knows nothing of sockets, clocks or records: payloads are opaque. Called by `links.py`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

KEEP_BYTES = 256 * 2**20
ACK_S = 0.5
ACK_BATCHES = 256
ACK_BYTES = 4 * 2**20
PROBE_S = 2.0
AGAIN_S = 0.25


class Transmit(NamedTuple):
    """Effect: put this payload on the connection, for the first time or again."""

    payload: Any


class Signal(NamedTuple):
    """Effect: send a batch that has no packets and no number.

    `ack`: what came in so far. `high`: a probe, this is what went out so far; answer it. `again`:
    send again what follows `ack`. `gone`: nothing up to here can be sent again.
    """

    ack: int
    high: int = 0
    again: bool = False
    gone: int = 0


class Lost(NamedTuple):
    """Effect: this many batches that came from the peer (or went to it) are lost for good."""

    num: int
    outgoing: bool


Effect = Transmit | Signal | Lost


class Received(NamedTuple):
    """What a batch came to: whether it is the next one, and what is to be done."""

    fresh: bool
    effects: list[Effect]


_JUST_FRESH = Received(True, [])


class Session:
    """Both directions of one link, at one end. Times are seconds of one monotonic clock."""

    def __init__(self, *, connected: bool = True, keep_bytes: int = KEEP_BYTES):
        self.sent = 0
        self.seen = 0
        self.acked = 0
        self.connected = connected
        self.kept_bytes = 0
        self._keep_bytes = keep_bytes
        self._kept: deque[tuple[int, Any, int]] = deque()
        self._owed_batches = 0
        self._owed_bytes = 0
        self._ack_at_s: float | None = None
        self._probe_at_s = 0.0
        self._asked: tuple[int, float] = (-1, 0.0)
        self._repeated: tuple[int, float] = (-1, 0.0)
        self._lost_below = 0

    @property
    def busy(self) -> bool:
        """Tell whether `tick` must be called: something is owed, or not acknowledged."""
        return self.connected and (self._ack_at_s is not None or bool(self._kept))

    @property
    def due_s(self) -> float:
        """When `tick` has something to do next, while nothing else happens and it is `busy`."""
        probe_s = self._probe_at_s if self._kept else math.inf
        return probe_s if self._ack_at_s is None else min(self._ack_at_s, probe_s)

    def next(self) -> tuple[int, int]:
        """Return the number and the acknowledgement that the next batch must carry."""
        return self.sent + 1, self.seen

    def send(self, payload: Any, num_bytes: int, now_s: float) -> list[Effect]:
        """A batch made with the numbers of `next` goes out."""
        self.sent += 1
        if not self._kept:
            self._probe_at_s = now_s + PROBE_S
        self._kept.append((self.sent, payload, num_bytes))
        self.kept_bytes += num_bytes
        while self.kept_bytes > self._keep_bytes and len(self._kept) > 1:
            self.kept_bytes -= self._kept.popleft()[2]
        if not self.connected:
            return []
        self._settle()
        return [Transmit(payload)]

    def received(
        self,
        number: int,
        ack: int,
        now_s: float,
        *,
        num_bytes: int = 0,
        high: int = 0,
        again: bool = False,
        gone: int = 0,
    ) -> Received:
        """A batch or a signal came in. It is to be used if it is `fresh`."""
        if number == self.seen + 1 and not again and gone < number:  # as nearly always
            if ack > self.acked:
                self._acknowledged(ack, now_s)
            self.seen = number
            self._owe(num_bytes, now_s)
            if self._owed_batches < ACK_BATCHES and self._owed_bytes < ACK_BYTES:
                return _JUST_FRESH
            return Received(True, self._signal())
        effects: list[Effect] = []
        self._acknowledged(ack, now_s)
        if gone > self.seen:
            effects.append(Lost(gone - self.seen, outgoing=False))
            self.seen = gone
            self._owe(0, now_s)
        fresh = number == self.seen + 1
        if fresh:
            self.seen = number
            self._owe(num_bytes, now_s)
            if self._owed_batches >= ACK_BATCHES or self._owed_bytes >= ACK_BYTES:
                effects += self._signal()
        elif max(number, high) > self.seen:
            effects += self._ask(now_s)
        elif number or high:  # it does not know what we have
            if high:
                effects += self._signal()
            else:
                self._owe(0, now_s)
        if again:
            effects += self._repeat(ack, now_s)
        return Received(fresh, effects)

    def connection_up(self, now_s: float) -> list[Effect]:
        """There is a (new) connection: what is not acknowledged goes out again, and a hello."""
        self.connected = True
        self._asked = self._repeated = (-1, 0.0)
        if not (self.sent or self.seen):
            return []
        self._probe_at_s = now_s + PROBE_S
        self._settle()
        return [*(Transmit(p) for _, p, _ in self._kept), Signal(self.seen, self.sent)]

    def connection_down(self) -> None:
        """The connection is lost: hold what is sent until there is one again."""
        self.connected = False

    def tick(self, now_s: float) -> list[Effect]:
        """Time has passed: acknowledge what is owed, ask after what was not acknowledged."""
        if not self.connected:
            return []
        if self._kept and now_s >= self._probe_at_s:
            self._probe_at_s = now_s + PROBE_S
            return self._signal(high=self.sent)
        if self._ack_at_s is not None and now_s >= self._ack_at_s:
            return self._signal()
        return []

    def _acknowledged(self, ack: int, now_s: float) -> None:
        if ack <= self.acked:
            return
        self.acked = min(ack, self.sent)
        self._probe_at_s = now_s + PROBE_S
        while self._kept and self._kept[0][0] <= self.acked:
            self.kept_bytes -= self._kept.popleft()[2]

    def _owe(self, num_bytes: int, now_s: float) -> None:
        self._owed_batches += 1
        self._owed_bytes += num_bytes
        if self._ack_at_s is None:
            self._ack_at_s = now_s + ACK_S

    def _settle(self) -> None:
        """What goes out now carries the acknowledgement."""
        self._owed_batches = self._owed_bytes = 0
        self._ack_at_s = None

    def _signal(self, *, high: int = 0, again: bool = False) -> list[Effect]:
        if not self.connected:
            return []
        self._settle()
        return [Signal(self.seen, high, again)]

    def _ask(self, now_s: float) -> list[Effect]:
        """A batch is missing: ask for all that follows what we have, once in a while."""
        seen, asked_s = self._asked
        if not self.connected or (seen == self.seen and now_s < asked_s + AGAIN_S):
            return []
        self._asked = (self.seen, now_s)
        return self._signal(again=True)

    def _repeat(self, after: int, now_s: float) -> list[Effect]:
        after = max(after, self.acked)  # it may be an old question
        last, repeated_s = self._repeated
        if not self.connected or (last == after and now_s < repeated_s + AGAIN_S / 2):
            return []
        self._repeated = (after, now_s)
        effects: list[Effect] = []
        first = self._kept[0][0] if self._kept else self.sent + 1
        if after + 1 < first and after < self.sent:
            missing = first - 1 - max(after, self._lost_below)
            if missing > 0:
                effects.append(Lost(missing, outgoing=True))
                self._lost_below = first - 1
            effects.append(Signal(self.seen, gone=first - 1))
        effects += [Transmit(p) for n, p, _ in self._kept if n > after]
        return effects
