"""The bound end of one lane: a PULL socket that is read by the loop itself.

The FD is edge-triggered: it is drained until EAGAIN, at most `DRAIN` messages a turn. What comes
out of rings of shared memory is copied here, in pieces while something small is under way
(`pace.py`).

Knows nothing of records or peers. Made by `zmq.py`; the door and the signed lane have inboxes of
their own kind, for which this only holds the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import zmq

from realnet.codec import Frame
from realnet.errors import WireError
from realnet.transport import OnMessage
from realnet.transport.pace import Pace
from realnet.transport.rings import MARK, Rings
from realnet.transport.sockets import (
    COPY_BELOW_BYTES,
    DONTWAIT,
    DRAIN,
    is_readable,
    raw_recv,
    user_of,
)

LARGE_BYTES = 2**18  # copied out in one turn; then whoever waits for something small comes first
Reading = Generator[None, None, list[Frame] | None]


class Inbox:
    """A socket at one or more addresses. `strangers` have knocked and were not let in.

    With `keyed` the link knows whose key a message came with. What comes `behind` waits for what
    came on other lanes in the same turn.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        monitor: zmq.Socket[bytes],
        bound: Sequence[str],
        trouble: Callable[[str], None],
        *,
        keyed: bool = False,
        rings: Rings | None = None,
        pace: Pace | None = None,
        behind: bool = False,
    ):
        self.socket = socket
        self.monitor = monitor
        self.bound = bound
        self.strangers = 0
        self._trouble = trouble
        self._keyed = keyed
        self._rings = rings
        self._pace = pace or Pace()
        self._behind = behind
        self._later = False  # it is drained in the next turn
        self._reading: Reading | None = None  # the message that is being copied
        self._copied_bytes = 0  # out of rings, in this turn
        self._on_message: OnMessage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, loop: asyncio.AbstractEventLoop, on_message: OnMessage) -> None:
        """Start to receive."""
        self._loop, self._on_message = loop, on_message
        loop.add_reader(int(self.socket.fd), self._readable)
        loop.call_soon(self._readable)  # what came before the reader was there

    def stop(self) -> None:
        """Receive no more. The socket stays its owner's to close."""
        loop: Any = self._loop  # uvloop returns no bool here, which compiled code would insist on
        if loop is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_reader(int(self.socket.fd))
        if self._reading is not None:
            self._reading.close()
        self._reading = self._on_message = None

    def _readable(self) -> None:
        """Take one message; look for more after those that it woke have run.

        To find out that there is no more takes a system call, as an exception several times that:
        not while somebody waits for an answer.
        """
        if self._later or self._loop is None:
            return
        more = True
        try:
            more = self._behind or self._take()
        except zmq.ZMQError:
            more = False
            raise
        finally:  # whatever became of this message: the FD does not tell of the next ones
            if more:
                self._later = True
                self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Drain; come back next turn if there is more than a turn's share."""
        self._later = False
        if self._on_message is None or self.socket.closed:
            return
        self._copied_bytes = 0
        more = True
        try:
            if self._reading is not None:
                self._read_on()
            else:
                more = is_readable(self.socket)
            for _ in range(DRAIN):
                if not more or self._copied_bytes >= LARGE_BYTES:
                    break
                more = self._take()
        except zmq.ZMQError:
            more = False
            raise
        finally:
            if more and self._loop is not None:
                self._later = True
                self._loop.call_soon(self._drain)

    def _take(self) -> bool:
        """Take one message; False if there is none."""
        socket = self.socket
        if self._on_message is None or socket.closed:
            return False
        try:
            part = raw_recv(socket, DONTWAIT, False)
        except zmq.Again:
            return False
        user = user_of(part) if self._keyed else None
        # Small frames are copied out, since they outlive the message; large ones stay.
        frames: list[Frame] = [part.bytes if len(part) < COPY_BELOW_BYTES else part.buffer]
        while part.more:
            part = raw_recv(socket, DONTWAIT, False)
            frames.append(part.bytes if len(part) < COPY_BELOW_BYTES else part.buffer)
        if self._rings is not None:
            if frames[0][:1] == MARK:
                self._reading = self._rings.read(frames[0])
                self._read_on()
                return True
            self._pace.num_small += not self._behind
        self._on_message(frames, user)
        return True

    def _read_on(self) -> None:
        """Copy a piece of the message that is under way, or all of it; hand it on when it is here.

        Until then nothing else is taken. On the first lane what is asked with it is small, and
        whoever asked waits for all of it.
        """
        assert self._reading is not None
        try:
            done, frames = self._pace.step(self._reading, all_of_it=not self._behind)
        except WireError as error:
            self._reading = None
            self._trouble(str(error))
            return
        except BaseException:
            self._reading = None
            raise
        self._copied_bytes += LARGE_BYTES  # no more in this turn
        if done:
            self._reading = None
            if frames is not None and self._on_message is not None:
                self._copied_bytes = sum(map(len, frames))
                self._on_message(frames)
