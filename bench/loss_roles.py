"""Counts exactly what is lost or doubled between two live processes whose connections are cut.

The sender asks, tells and sends items with the same numbers; the counter keeps one byte for each
number and kind. Meanwhile the sender shuts its own sockets down under the transport, as a network
that breaks would: both directions, the links to the head included.

Public names only. Run by `loss.toml`; `measure.py` must be on PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from measure import touch, write_rows

from realnet import (
    Actor,
    Ask,
    Config,
    Delivery,
    Inlet,
    Message,
    Outlet,
    Request,
    Seconds,
    doc,
    handles,
)

KINDS = ("asked", "told", "item")
ARRAY_EVERY = 256  # of the items; a cut can come in the middle of its frames
ARRAY_BYTES = 100_000
MAX_COUNT = 255


class Answer(Message):
    number: int


class Question(Request[Answer]):
    number: int


class Note(Message):
    number: int


class Part(Message):
    number: int
    data: npt.NDArray[np.uint8]


class Counts(Message):
    lost: dict[str, int]
    duplicated: dict[str, int]


class Count(Request[Counts]):
    """How often did each number below `num` come, of each kind?"""

    num: int


class Counter(Actor[Config]):
    """Counts how often each number came."""

    parts = Inlet(Part, window=256)

    async def start(self) -> None:
        self.seen = {kind: bytearray() for kind in KINDS}

    def saw(self, kind: str, number: int) -> None:
        seen = self.seen[kind]
        if number >= len(seen):
            seen.extend(bytes(number + 1_000_000 - len(seen)))
        seen[number] = min(seen[number] + 1, MAX_COUNT)

    @handles
    async def answer(self, request: Question) -> Answer:
        self.saw("asked", request.number)
        return Answer(request.number)

    @handles
    async def note(self, told: Note) -> None:
        self.saw("told", told.number)

    @parts.handler
    async def on_part(self, item: Delivery[Part]) -> None:
        touch((item.body.data,))
        self.saw("item", item.body.number)

    @handles
    async def count(self, request: Count) -> Counts:
        seen = {kind: table[: request.num] for kind, table in self.seen.items()}
        more = {k: sum(table[request.num :]) for k, table in self.seen.items()}  # never sent
        return Counts(
            {k: table.count(0) + request.num - len(table) for k, table in seen.items()},
            {
                k: more[k] + sum((n - 1) * table.count(n) for n in range(2, MAX_COUNT + 1))
                for k, table in seen.items()
            },
        )


class SenderConfig(Config):
    out: Annotated[str, doc("the file that the counts go to")]
    num: Annotated[int, doc("how many messages, a third of each kind", ge=3)] = 5_000_001
    window: Annotated[int, doc("how many send at once", ge=1)] = 256
    cut_every: Annotated[Seconds, doc("how often connections are cut")] = Seconds(0.5)


class Sender(Actor[SenderConfig]):
    """Sends every number three times, in three ways, and cuts."""

    counter = Ask(Question, Count)
    parts = Outlet(Part)

    async def run(self) -> None:
        self.numbers = itertools.count()
        self.num = -(-self.config.num // len(KINDS))
        self.wrong = 0
        self.small = np.ones(4, np.uint8)
        self.large = np.ones(ARRAY_BYTES, np.uint8)
        cut: set[int] = set()
        start_s = time.perf_counter()
        cutter = self.spawn(self.cut(cut), name="cut")
        senders = [self.spawn(self.send(), name="send") for _ in range(self.config.window)]
        for sender in senders:
            await sender
        while self.parts.leased or self.parts.waiting:
            await self.clock.sleep(0.01)
        cutter.cancel()
        took_s = time.perf_counter() - start_s
        counts = await self.counter(Count(self.num))
        rows: dict[str, float] = {
            "messages": self.num * len(KINDS),
            "lost": sum(counts.lost.values()),
            "duplicated": sum(counts.duplicated.values()) + self.wrong,
            "connections_cut": len(cut),
            "took_s": took_s,
        }
        rows |= {f"lost_{kind}": n for kind, n in counts.lost.items()}
        rows |= {f"duplicated_{kind}": n for kind, n in counts.duplicated.items()}
        write_rows(Path(self.config.out), rows)
        self.finish("counted")

    async def send(self) -> None:
        for number in self.numbers:
            if number >= self.num:
                return
            answer = await self.counter(Question(number), deadline_s=120)
            self.wrong += answer.number != number
            self.counter.tell(Note(number))
            data = self.small if number % ARRAY_EVERY else self.large
            await self.parts.send(Part(number, data), key=str(number))

    async def cut(self, cut: set[int]) -> None:
        """Shut down some of this process's connections, again and again."""
        while True:
            await self.clock.sleep(self.config.cut_every)
            for inode, connection in connections():
                if self.rng.random() < 0.7:  # sometimes one direction goes and the other stays
                    with contextlib.suppress(OSError):  # it was just closed
                        connection.shutdown(socket.SHUT_RDWR)
                        cut.add(inode)
                connection.close()


def connections() -> Iterator[tuple[int, socket.socket]]:
    """Yield inode and a duplicate of every stream connection of this process with a name."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            target = os.readlink(entry)
            if not target.startswith("socket:["):
                continue
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # closed meanwhile
            continue
        try:
            named = bool(connection.getpeername() or connection.getsockname())
        except OSError:  # it listens
            named = False
        if named and connection.type == socket.SOCK_STREAM:
            yield int(target[8:-1]), connection
        else:
            connection.close()
