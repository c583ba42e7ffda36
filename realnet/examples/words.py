"""The roles of `realnet run words`: the words of a text are counted, and the strange ones found.

    reader ──lines──▶ counter (a pool) ──counts──▶ tally
                         │ asks
                         ▼
                      speller

Written as any role is, against `realnet`'s public names. docs/tutorial.md builds it up.
"""

from __future__ import annotations

import json
import re
from collections import Counter as Counts
from pathlib import Path
from typing import Annotated, Any

from realnet import (
    Actor,
    Ask,
    Config,
    ConfigError,
    Delivery,
    Inlet,
    Message,
    Outlet,
    Request,
    Shared,
    StateIn,
    StateOut,
    doc,
    handles,
)


class Line(Message):
    """One line of the text."""

    number: int
    text: str


class Counted(Message):
    """What was found in one line."""

    number: int
    words: dict[str, int]
    strange: tuple[str, ...]


class Book(Message):
    """What all must know of the text."""

    num_lines: int
    skip: tuple[str, ...]


class Strange(Message):
    """Words that are in no dictionary."""

    words: tuple[str, ...]


class Spell(Request[Strange]):
    """Which of these words are in no dictionary?"""

    safe = True  # asking twice does no harm: if the answerer dies, another one is asked
    words: tuple[str, ...]


class ReaderConfig(Config):
    text: Annotated[str, doc("a text file, seen from the topology's folder")]
    times: Annotated[int, doc("how often the text is read", ge=1)] = 1
    skip: Annotated[tuple[str, ...], doc("words that are not counted")] = ()


class Reader(Actor[ReaderConfig]):
    """Sends the lines of a text, each once."""

    lines = Outlet(Line)
    book = StateOut(Book)

    @classmethod
    def check(cls, config: ReaderConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        if not (base / config.text).is_file():
            raise ConfigError(f"there is no file {base / config.text}")

    async def run(self) -> None:
        path = self.run_info.base / self.config.text
        text = path.read_text(encoding="utf-8").splitlines() * self.config.times
        self.book.set(Book(len(text), self.config.skip))
        for number, line in enumerate(text):
            await self.lines.send(Line(number, line), key=str(number))


class CounterConfig(Config):
    window: Annotated[int, doc("how many lines one counter has in hand", ge=1)] = 16


class Counter(Actor[CounterConfig]):
    """Counts the words of one line, and asks which of them are strange."""

    lines = Inlet(Line, window="window")
    counts = Outlet(Counted)
    book = StateIn(Book)
    speller = Ask(Spell)

    @lines.handler
    async def count(self, item: Delivery[Line]) -> None:
        book = await self.book.get()
        words = Counts(re.findall(r"[a-z]+", item.body.text.lower()))
        for word in book.skip:
            words.pop(word, None)
        answer = await self.speller(Spell(tuple(words)))
        counted = Counted(item.body.number, dict(words), answer.words)
        await self.counts.send(counted, key=item.key, caused_by=item)


class SpellerConfig(Config):
    dictionary: Annotated[str, doc("a file of words, seen from the topology's folder")]


class Speller(Actor[SpellerConfig]):
    """Knows all the words of a dictionary."""

    async def start(self) -> None:
        path = self.run_info.base / self.config.dictionary
        self.known = frozenset(path.read_text(encoding="utf-8").split())

    @handles
    async def spell(self, request: Spell) -> Strange:
        return Strange(tuple(word for word in request.words if word not in self.known))


class TallyConfig(Config):
    shown: Annotated[int, doc("how many words are named at the end", ge=1)] = 3


class Tally(Actor[TallyConfig]):
    """Adds up what was counted; when every line is there, writes words.json and ends the run."""

    counts = Inlet(Counted)
    book = StateIn(Book)

    async def start(self) -> None:
        self.lines: set[int] = set()
        self.words: Counts[str] = Counts()
        self.strange: set[str] = set()

    @counts.handler
    async def add(self, item: Delivery[Counted]) -> None:
        if item.body.number in self.lines:
            return  # its counter died when it had sent this, and another one did the line again
        self.lines.add(item.body.number)
        self.words.update(item.body.words)
        self.strange.update(item.body.strange)
        book = await self.book.get()
        if len(self.lines) == book.num_lines:
            self._end()

    def _end(self) -> None:
        words = dict(self.words.most_common())
        found = {"lines": len(self.lines), "words": words, "strange": sorted(self.strange)}
        path = self.run_info.folder / "words.json"
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        most = ", ".join(f"{w} {n}" for w, n in self.words.most_common(self.config.shown))
        self.finish(
            f"{len(self.lines)} lines, {self.words.total()} words ({most} ...), "
            f"{len(self.strange)} of them strange"
        )
