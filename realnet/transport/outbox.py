"""What goes to one peer of the same host: large messages through a ring, in their turn.

A large message on another lane than the first leaves in turns of its own, after what is small, in
pieces while something small is under way (`pace.py`); what follows it on its lane waits behind it.

Knows nothing of sockets: `give` hands frames to the one of a lane. Made by `zmq.py`, one a peer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Sequence

from realnet.codec import Frame
from realnet.transport.pace import Pace
from realnet.transport.rings import FROM_BYTES, Rings

LARGE_BYTES = 2**18
Putting = Generator[None, None, tuple[bytes, bool]]


class Outbox:
    """The way to one peer, in order on each lane."""

    def __init__(
        self, peer: str, rings: Rings, pace: Pace, give: Callable[[int, Sequence[Frame]], None]
    ):
        self._peer = peer
        self._rings = rings
        self._pace = pace
        self._give = give
        self._waiting: dict[int, deque[Sequence[Frame]]] = {}  # a large one, and what follows it
        self._putting: dict[int, Putting] = {}  # the first of them, while it is copied

    def send(self, lane: int, frames: Sequence[Frame]) -> None:
        """Send one message. Those of one lane keep their order."""
        if not lane:
            self._put(lane, frames)
            return
        waiting = self._waiting.get(lane)
        if waiting is None:
            waiting = self._waiting[lane] = deque()
        if not waiting and sum(map(len, frames)) <= LARGE_BYTES:
            self._put(lane, frames)
            return
        waiting.append(frames)
        if len(waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next, lane)

    def flush(self) -> None:
        """What waits leaves now."""
        for lane, waiting in self._waiting.items():
            while waiting:
                self._put(lane, waiting[0])
                waiting.popleft()

    def close(self) -> None:
        """The peer is gone, or we are."""
        self._waiting.clear()
        for putting in self._putting.values():
            putting.close()
        self._putting.clear()

    def _next(self, lane: int) -> None:
        """Copy a piece of what waits first, or all of it; go on in the next turn."""
        waiting = self._waiting.get(lane)
        if not waiting:
            return
        done = True  # also what cannot be sent: the lane goes on, and the session asks for it
        try:
            done = self._put(lane, waiting[0], piecewise=True)
        finally:
            if done and waiting:
                waiting.popleft()
            if waiting:
                asyncio.get_running_loop().call_soon(self._next, lane)

    def _put(self, lane: int, frames: Sequence[Frame], *, piecewise: bool = False) -> bool:
        """Put a message into the ring, or give it to the socket if it cannot go there.

        Return whether that is done: `piecewise` it may take several calls.
        """
        if sum(map(len, frames)) >= FROM_BYTES:
            putting = self._putting.pop(lane, None)
            if putting is None:
                putting = self._rings.notice(self._peer, lane, frames)
            done, result = self._pace.step(putting, all_of_it=not piecewise)
            if not done or result is None:
                self._putting[lane] = putting
                return False
            notice, follows = result
            if notice:
                self._give(lane, (notice,))
            if not follows:
                return True
        self._give(lane, frames)
        return True
