"""What the reader of a ring holds where it lies: arrays that are not copied, as long as they live.

A message that is held keeps its place until the last array of it is gone; the writer goes on behind
it. Places are told in words of the ring's head that only the reader writes, one word a place, so
that each is there whole or not at all. There are few of them, and what is large is not held: who
keeps many arrays, or keeps them for long, gets copies when the words are used up, and at most half
of a ring is ever held.

Only where processors let others see writes in the order in which they were made (x86): a place is
told before the ring says that it was taken. The writer could write to what is held, if it wanted
to: both ends are processes of one user, and whoever can open a ring can do worse. Ours never does.

Knows nothing of positions or floors. Used by both ends of `ring.py`.
"""

from __future__ import annotations

import contextlib
import platform
import weakref
from functools import partial

import numpy as np

from realnet.arrays import Array

NUM_HELD = 16
UNIT_BYTES = 64  # of which places are counted, so that both ends of one fit into a word
FROM_BYTES = 64 * 1024  # below, a copy costs less
IN_ORDER = platform.machine() in ("x86_64", "AMD64")
_HALF = 32


def beyond(offset: int, size: int, words: memoryview) -> int:
    """Return the first offset from this one on where so many bytes touch nothing that is held."""
    places = sorted(word for word in words.tolist() if word)
    for word in places:
        start, stop = (word >> _HALF) * UNIT_BYTES, (word & (1 << _HALF) - 1) * UNIT_BYTES
        if start < offset + size and offset < stop:
            offset = stop
    return offset


class Held:
    """What is held of one ring. Places begin and end at multiples of `UNIT_BYTES`."""

    def __init__(self, words: memoryview, data: memoryview):
        self._words = words
        self._data = data
        self._most_bytes = len(data) // (2 * NUM_HELD) if IN_ORDER else 0
        self._free = list(range(NUM_HELD))
        self._alive: dict[int, weakref.ref[Array]] = {}

    def hold(self, offset: int, size: int) -> memoryview | None:
        """Hold a place while anything refers to what is returned. None: it has to be copied."""
        if not FROM_BYTES <= size <= self._most_bytes or not self._free:
            return None
        number = self._free.pop()
        stop = (offset + size) // UNIT_BYTES
        self._words[number] = (offset // UNIT_BYTES) << _HALF | stop
        place: Array = np.frombuffer(self._data[offset : offset + size], np.uint8)
        self._alive[number] = weakref.ref(place, partial(self._let_go, number))
        return place.data.toreadonly()

    def _let_go(self, number: int, _: weakref.ref[Array]) -> None:
        """Nothing refers to a place any more. Called by whatever thread dropped the last array."""
        with contextlib.suppress(ValueError):  # the ring is closed
            self._words[number] = 0
            self._free.append(number)

    def release(self) -> None:
        """Close the ring: nobody writes to it any more. What is held stays as long as it lives."""
        self._words.release()
