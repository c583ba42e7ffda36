"""A ring of shared memory from one process to another: what is put in at one end comes out at the
other.

Positions count bytes since the ring was made and only grow; a message lies in one piece at its
position, modulo the capacity. Three numbers stand before the data, each written by one side only:
`ready` and `taken` by the reader (it has the ring open; it has taken out all up to there), `floor`
by the writer (nothing below it is valid any more). The order of messages is not the ring's
business: whoever carries the positions to the reader keeps it, and may lose some of them. What was
lost is passed over by the next message that is taken, or given up by `forget`, which raises the
floor: so a position that comes late is never mistaken for what lies there by then.

The reader copies, or holds a message where it lies (`held.py`) except for its first frame, which is
what is decoded; and it looks at the floor again afterwards. (A position comes late only after its
connection was lost and another one is there: between raising the floor and the next message there
are system calls of both sides, so that no CPU reorders the two.) The writer starts over at the
beginning as soon as it can, so that it writes to what was just read: memory that both processors
still have in their caches, and not much more of it than was under way at once. Where it never was
it asks for the memory first: a page that cannot be had ends the process that writes to it (SIGBUS).

Knows nothing of notices, sockets or peers. Made by `rings.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import numpy as np

from realnet.codec import Frame
from realnet.transport.held import NUM_HELD, Held, beyond

T = TypeVar("T")

HEAD_BYTES = 4096
PIECE_BYTES = 2**18  # are copied without a pause
HOT_BYTES = 2**20  # of the beginning; further on the writer goes only where this is taken up
ALIGN_BYTES = 64  # of each frame: a cache line, and what any dtype wants
_READY, _TAKEN, _FLOOR = 0, 8, 16  # words of 8 bytes, a cache line apart
_MINDS = 24  # by the writer: it looks at what is held
_HELD = 32


def _all(work: Generator[None, None, T]) -> T:
    """Do a work without pausing; return what comes of it."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _padded(num_bytes: int) -> int:
    return (num_bytes + ALIGN_BYTES - 1) // ALIGN_BYTES * ALIGN_BYTES


def _room(sizes: Sequence[int]) -> int:
    """Return what a message takes: never nothing, so that no two are at one position."""
    total = 0
    for num_bytes in sizes:
        total += _padded(num_bytes)
    return max(total, ALIGN_BYTES)


def _there(start: int, stop: int) -> bool:
    return True


class RingWriter:
    """The end that puts messages in. `back` gets memory for bytes of it; False: there is none."""

    def __init__(self, memory: memoryview, back: Callable[[int, int], bool] = _there):
        self._back = back
        self._backed = 0  # bytes of the data that are sure to be there
        self._words = memory[:HEAD_BYTES].cast("Q")
        self._held = self._words[_HELD : _HELD + NUM_HELD]
        self._words[_MINDS] = 1
        self._data = memory[HEAD_BYTES:]
        self.capacity = len(self._data)
        self._next = 0

    @property
    def ready(self) -> bool:
        """Tell whether the reader has the ring open."""
        return self._words[_READY] == 1

    def put(self, frames: Sequence[Frame]) -> int | None:
        """Copy a message in and return its position; None if there is no room for it now."""
        return _all(self.putting(frames))

    def putting(self, frames: Sequence[Frame]) -> Generator[None, None, int | None]:
        """As `put`, and pause after each piece. Another message must wait until this one is in."""
        sizes = [len(frame) for frame in frames]
        size = _room(sizes)
        capacity = self.capacity
        at = self._place(size)
        if at is None:
            return None
        offset = at % capacity
        while self._backed < offset + size:
            stop = min(self._backed + PIECE_BYTES, capacity)
            if not self._back(HEAD_BYTES + self._backed, HEAD_BYTES + stop):
                return None
            self._backed = stop
            yield
        data, copied = self._data, 0
        self._next = at + size
        for frame, num_bytes in zip(frames, sizes, strict=True):
            if num_bytes <= PIECE_BYTES:
                data[offset : offset + num_bytes] = frame
            else:
                view = memoryview(frame)
                for i in range(0, num_bytes, PIECE_BYTES):
                    if i:
                        yield
                    piece = view[i : i + PIECE_BYTES]
                    data[offset + i : offset + i + len(piece)] = piece
            offset += _padded(num_bytes)
            copied += min(num_bytes, PIECE_BYTES)
            if copied > PIECE_BYTES:
                copied = 0
                yield
        return at

    def _place(self, size: int) -> int | None:
        """Return the position of the next message; None if there is no room."""
        words, capacity, at = self._words, self.capacity, self._next
        done = max(words[_TAKEN], words[_FLOOR])
        offset = at % capacity
        begin = at + capacity - offset  # the next time around
        if offset and (done == at or offset >= HOT_BYTES or offset + size > capacity):
            room = capacity if done == at else done + capacity - begin
            start = beyond(0, size, self._held)
            if start + size <= room:
                return begin + start
        start = beyond(offset, size, self._held)
        at += start - offset
        return at if start + size <= capacity and at + size - done <= capacity else None

    def forget(self) -> None:
        """Nothing that was put in so far is to be taken any more."""
        self._words[_FLOOR] = self._next

    def release(self) -> None:
        """Let go of the memory."""
        self._held.release()
        self._words.release()
        self._data.release()


class RingReader:
    """The end that takes messages out."""

    def __init__(self, memory: memoryview):
        self._words = memory[:HEAD_BYTES].cast("Q")
        self._data = memory[HEAD_BYTES:]
        self._held = Held(self._words[_HELD : _HELD + NUM_HELD], self._data)
        self.capacity = len(self._data)
        self._words[_READY] = 1

    def take(self, position: int, sizes: Sequence[int]) -> list[Frame] | None:
        """Return the frames of a message of these sizes; None if it is no longer there.

        Raises ValueError for a position or sizes that no writer would have told.
        """
        return _all(self.taking(position, sizes))

    def taking(
        self, position: int, sizes: Sequence[int]
    ) -> Generator[None, None, list[Frame] | None]:
        """As `take`, and pause after each piece. Messages are taken one after the other."""
        offset, size = position % self.capacity, _room(sizes)
        if offset + size > self.capacity:
            raise ValueError(f"{size} bytes at {offset} are outside of {self.capacity}")
        words, data, copied = self._words, self._data, 0
        if position < words[_FLOOR]:
            return None
        frames: list[Frame] = []
        if len(sizes) > 1 and words[_MINDS]:
            place = self._held.hold(offset, size)
            if place is not None:
                frames = _cut(place, sizes)
                if position < words[_FLOOR]:
                    return None  # and it is let go of at once
                words[_TAKEN] = position + size
                return frames
        for num_bytes in sizes:
            if num_bytes <= PIECE_BYTES:
                frames.append(bytes(data[offset : offset + num_bytes]))
            else:
                frame = np.empty(num_bytes, np.uint8).data  # not filled with zeros first
                for i in range(0, num_bytes, PIECE_BYTES):
                    if i:
                        yield
                    frame[i : i + PIECE_BYTES] = data[
                        offset + i : offset + min(i + PIECE_BYTES, num_bytes)
                    ]
                frames.append(frame.toreadonly())
            offset += _padded(num_bytes)
            copied += min(num_bytes, PIECE_BYTES)
            if copied > PIECE_BYTES:
                copied = 0
                yield
        if position < words[_FLOOR]:  # it may have been written over meanwhile
            return None
        words[_TAKEN] = position + size
        return frames

    def release(self) -> None:
        """Let go of the memory: the writer sees that there is nobody."""
        self._words[_READY] = 0
        self._held.release()
        self._words.release()
        self._data.release()


def _cut(place: memoryview, sizes: Sequence[int]) -> list[Frame]:
    """Return the frames of a message that is held: the first a copy, the others as they lie."""
    frames: list[Frame] = [bytes(place[: sizes[0]])]
    at = _padded(sizes[0])
    for num_bytes in sizes[1:]:
        frames.append(place[at : at + num_bytes])
        at += _padded(num_bytes)
    return frames
