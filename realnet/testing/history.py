"""What happened in a simulation, and whether it may have happened.

A `History` is a list of events in the order of virtual time. `check` judges it afterwards, from
the outside, as one judges a database: nothing in the run asserts anything.

Knows nothing of nodes or loops. Written by `simulation.py` and the roles of `scenario.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """Something happened. `who` is an incarnation ("worker/0~2") or ""."""

    time_s: float
    what: str
    who: str
    key: str


class History:
    """The events of one run."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self.events: list[Event] = []
        self.closed = False

    def note(self, what: str, who: str = "", key: str = "") -> None:
        """Something happened now."""
        if not self.closed:
            self.events.append(Event(self._now(), what, who, key))

    def of(self, *whats: str) -> Iterator[Event]:
        """The events of these kinds, in order."""
        return (e for e in self.events if e.what in whats)

    def digest(self) -> str:
        """Return a digest of everything; equal seeds give equal digests."""
        text = "\n".join(f"{e.time_s!r} {e.what} {e.who} {e.key}" for e in self.events)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def around(self, key: str, most: int = 40) -> str:
        """The story of one key, for people."""
        lines = [
            f"{e.time_s:9.4f} {e.what:10} {e.who} {e.key}"
            for e in self.events
            if e.key == key or e.key.startswith(key + ".") or e.what in ("exit", "kill", "hang")
        ]
        return "\n".join(lines[-most:])


def check(
    history: History,
    offered: set[str],
    set_aside: set[str],
    windows: dict[str, int],
    *,
    finished: bool = True,
    leases: bool = False,
) -> list[str]:
    """Return what is wrong with a history, one line each.

    `offered` are the keys that were to be done, `set_aside` those among them that must end with a
    reason, `windows` the most that an inlet of a role may have in custody. A run that was stopped
    before it was `finished` need not have done everything. With `leases` related work may move.
    """
    return [
        *(_done(history, offered, set_aside) if finished else ()),
        *_told(history, set_aside),
        *_acks(history, set_aside),
        *_effects(history),
        *_handlers(history, windows),
        *(() if leases else _related(history)),
        *_deaths(history),
        *_watches(history),
        *_kills(history),
        *_deadlines(history),
    ]


def children(key: str) -> tuple[str, ...]:
    """Return the keys of the results that an item causes: two for every fifth, else one."""
    return (f"{key}.a", f"{key}.b") if key.endswith(("0", "5")) else (f"{key}.a",)


def _done(history: History, offered: set[str], set_aside: set[str]) -> Iterator[str]:
    durable = {e.key for e in history.of("durable")}
    acked = {e.key for e in history.of("acked")}
    asides = {e.key for e in history.of("aside")}
    for key in sorted(offered - set_aside):
        missing = [c for c in children(key) if c not in durable]
        if missing:
            yield f"{key} was offered and {', '.join(missing)} never reached the sink"
        if key not in acked:
            yield f"{key} was never acked to its source"
    for key in sorted(set_aside & offered - asides):
        yield f"{key} was set aside and its source never heard of it"


def _told(history: History, set_aside: set[str]) -> Iterator[str]:
    for key in sorted({e.key for e in history.of("aside")} - set_aside):
        yield f"{key} was reported as set aside and nobody did that"
    for e in history.of("wrong"):
        yield f"{e.who} got a wrong answer for {e.key}"


def _acks(history: History, set_aside: set[str]) -> Iterator[str]:
    durable: set[str] = set()
    for e in history.of("durable", "acked"):
        if e.what == "durable":
            durable.add(e.key)
        elif e.key not in set_aside:
            missing = [c for c in children(e.key) if c not in durable]
            if missing:
                yield f"{e.key} was acked at {e.time_s:.3f} s before {missing[0]} was durable"


def _effects(history: History) -> Iterator[str]:
    for key, times in Counter(e.key for e in history.of("durable")).items():
        if times > 1:
            yield f"{key} took effect {times} times"


def _handlers(history: History, windows: dict[str, int]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    open_now: Counter[str] = Counter()
    for e in history.of("take", "end"):
        if e.what == "end":
            open_now[e.who] -= 1
            continue
        if (e.who, e.key) in seen:
            yield f"{e.key} was handled twice in one life of {e.who}"
        seen.add((e.who, e.key))
        open_now[e.who] += 1
        most = windows[e.who.partition("/")[0]]
        if open_now[e.who] > most:
            yield f"{e.who} handled {open_now[e.who]} at {e.time_s:.3f} s, its window is {most}"
    for e in history.of("over"):
        yield f"{e.who} had {e.key} in custody at {e.time_s:.3f} s, over its window"


def _related(history: History) -> Iterator[str]:
    """What is related stays with one worker until that one ends."""
    ended: set[str] = set()
    where: dict[str, str] = {}
    for e in history.of("keyed", "exit"):
        if e.what == "exit":
            ended.add(e.who)
            continue
        before = where.get(e.key, e.who)
        if before != e.who and before not in ended:
            yield f"what is related in {e.key} went to {e.who} while {before} lived"
        where[e.key] = e.who


def _watches(history: History) -> Iterator[str]:
    """A watch tells of a death once, and only of one that happened."""
    ended: set[str] = set()
    told: set[tuple[str, str]] = set()
    for e in history.of("exit", "mourns", "tells"):
        if e.what == "exit":
            ended.add(e.who)
        elif e.what == "mourns" and e.key not in ended:
            yield f"{e.who} was told at {e.time_s:.3f} s that {e.key} ended, which lives"
        elif e.what == "tells":
            if (e.who, e.key) in told:
                yield f"watch {e.key} of {e.who} told twice"
            told.add((e.who, e.key))


def _deaths(history: History) -> Iterator[str]:
    """Each life ends once; each node hears of it once, after it heard that it was up."""
    exits = Counter(e.who for e in history.of("exit"))
    for who, times in exits.items():
        if times > 1:
            yield f"{who} ended {times} times"
    up: set[tuple[str, str]] = set()
    down: set[tuple[str, str]] = set()
    for e in history.of("told up", "told down"):
        pair = e.who, e.key
        if e.what == "told up":
            if pair in up:
                yield f"{e.who} was told twice that {e.key} is up"
            if pair in down:
                yield f"{e.who} was told that {e.key} is up after it was told of its death"
            up.add(pair)
        else:
            if pair in down:
                yield f"{e.who} was told twice that {e.key} is dead"
            if e.key not in exits:
                yield f"{e.who} was told that {e.key} is dead, which lives"
            down.add(pair)
    for e in history.of("stale"):
        yield f"{e.who} was never told that {e.key} died"


def _kills(history: History) -> Iterator[str]:
    """The head kills only who was silent: one that hung, or a link of its own that was bad."""
    silent: dict[str, float] = {}
    murdered = ""
    for e in history.events:
        if e.what == "murder":
            murdered = e.who
        elif e.what == "fault" and e.key.startswith("hang"):
            silent[e.who] = e.time_s
        elif e.what == "fault" and e.key.startswith(("cut", "slow", "sever")):
            ends = (e.who, e.key.split()[1])
            if "head" in ends:
                silent[ends[0] if ends[1] == "head" else ends[1]] = e.time_s
        elif e.what == "stop":
            return
        elif e.what == "kill" and e.who == murdered:
            murdered = ""
        elif e.what == "kill" and e.time_s - silent.get(e.who, float("-inf")) > 15.0:
            yield f"{e.who} was killed at {e.time_s:.3f} s though nothing kept it silent"


def _deadlines(history: History) -> Iterator[str]:
    """An ask ends in time, one way or the other, unless its own process stood still."""
    stood_still = {e.who for e in history.of("hang")}
    for e in history.of("late"):
        if e.who.partition("~")[0] not in stood_still:
            yield f"an ask of {e.who} ended only after {e.key} s"
