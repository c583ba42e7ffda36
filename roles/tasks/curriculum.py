"""A curriculum: somebody's own function says what the next ticket asks.

    def easy_first(ticket, sizes):                    # sizes: task -> rows (0: no end of them)
        return {"easy": 1.0, "hard": ticket / 2000}   # weights of the mix at this ticket, or
        return "easy"                                 # a task, or
        return "easy", 17                             # a task and its row

    def when_able(ticket, sizes, rewards):            # rewards: task -> mean of its newest groups
        return {"easy": 1.0, "hard": rewards.get("easy", 0.0)}

The function is asked once for each ticket, in order, and must answer the same for the same
arguments: so a prompter that starts anew, at whatever ticket, deals what the one before it dealt.
`rewards` changes once a version at most, and is journaled with the first ticket that it is for: a
resumed run deals its tickets as they were dealt. It lacks tasks of which nothing came back yet.
Which row of a task comes is, unless the function says, the next of the task's own order.

Knows nothing of files of data, tokens or prompters. Called by `dataset.py`.
"""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from realnet.errors import ConfigError, listed, nearest
from realnet.roles.messages import Standing
from realnet.roles.tasks.order import derive
from realnet.topology.kinds import load_object

_TRIED = 64  # tickets that `check` asks about, twice
_NO_ROW = -1


class Choice(NamedTuple):
    """What a ticket asks: a task, and either its own j-th problem or a row that was named."""

    task: str
    j: int
    row: int | None = None


class Curriculum:
    """Deals tickets to tasks by a function. `sizes` are the rows of each task, 0 for endless."""

    def __init__(
        self, function: Callable[..., Any], sizes: Mapping[str, int], seed: int, where: str
    ) -> None:
        self._function, self._seed, self._where = function, seed, where
        self._sizes = dict(sizes)
        self._names: Sequence[str] = sorted(sizes)
        self._tasks, self._rows, self._js = array("H"), array("q"), array("q")
        self._dealt = [0] * len(self._names)
        self._standings: list[Standing] = []
        self._now = 0  # how many standings begin at or before the next ticket
        self._adapts = _takes_rewards(function)

    @property
    def num_standings(self) -> int:
        """How many standings are known, from the first of the run on."""
        return len(self._standings)

    def learn(self, standings: Iterable[Standing]) -> None:
        """Enter standings that follow on those that are known. Repeated ones change nothing."""
        known = self._standings
        for standing in standings:
            if known and standing.first <= known[-1].first:
                continue
            if standing.first < len(self._tasks):
                raise ConfigError(
                    f"{self._where}: ticket {standing.first} was dealt before it was known how "
                    "tasks went: tickets were asked for in another order than they are issued"
                )
            known.append(standing)

    def __call__(self, k: int) -> Choice:
        """Return what ticket k asks. Raises ConfigError naming function and ticket."""
        while len(self._tasks) <= k:
            self._deal(len(self._tasks))
        row = self._rows[k]
        name = self._names[self._tasks[k]]
        return Choice(name, self._js[k], None if row == _NO_ROW else row)

    def check(self) -> None:
        """Ask for some tickets twice. Raises ConfigError when the answers differ."""
        for ticket in range(_TRIED):
            self(ticket)
            first, second = self._ask(ticket), self._ask(ticket)
            if first != second:
                raise ConfigError(
                    f"{self._where} answers {first!r} and then {second!r} for ticket {ticket}: it "
                    "must answer the same for the same ticket, or a run could not be resumed. "
                    "Draw with random.Random(ticket)"
                )

    def _deal(self, ticket: int) -> None:
        while self._now < len(self._standings) and self._standings[self._now].first <= ticket:
            self._now += 1
        answer = self._ask(ticket)
        row = _NO_ROW
        if isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[0], str):
            name, row = answer[0], self._row(answer[0], answer[1], ticket)
        elif isinstance(answer, str):
            name = answer
        elif isinstance(answer, Mapping):
            name = self._draw(answer, ticket)
        else:
            raise ConfigError(
                f"{self._where} answers {answer!r} for ticket {ticket}: weights "
                '({"task": 1.0}), a task ("task"), or a task and a row ("task", 17) are needed'
            )
        which = self._which(name, ticket)
        self._tasks.append(which)
        self._rows.append(row)
        self._js.append(self._dealt[which])
        if row == _NO_ROW:
            self._dealt[which] += 1

    def _ask(self, ticket: int) -> Any:
        try:
            if not self._adapts:
                return self._function(ticket, dict(self._sizes))
            rewards = self._standings[self._now - 1].rewards if self._now else {}
            return self._function(ticket, dict(self._sizes), dict(rewards))
        except Exception as error:  # whatever it raises, it is told with the ticket
            raise ConfigError(
                f"{self._where} raised {type(error).__name__} for ticket {ticket}: {error}"
            ) from error

    def _draw(self, weights: Mapping[Any, Any], ticket: int) -> str:
        total = 0.0
        for name, weight in weights.items():
            self._which(name, ticket)
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                weight = math.nan
            if not 0.0 <= weight < math.inf:
                raise ConfigError(
                    f"{self._where} weighs {name!r} with {weights[name]!r} for ticket {ticket}: a "
                    "number from 0 on is needed"
                )
            total += weight
        if total <= 0.0:
            raise ConfigError(
                f"{self._where} gives no task any weight for ticket {ticket}: one at least"
            )
        point = derive(self._seed, "curriculum", ticket) / 2**63 * total
        for name in sorted(weights):
            point -= weights[name]
            if point < 0.0:
                return str(name)
        return str(max(name for name in weights if weights[name] > 0.0))  # rounding ate the last

    def _which(self, name: Any, ticket: int) -> int:
        if name not in self._sizes:
            raise ConfigError(
                f"{self._where} names the task {name!r} for ticket {ticket}, which is none to "
                f"train on.{nearest(str(name), self._names)} There are: {listed(self._names)}"
            )
        return self._names.index(name)

    def _row(self, name: str, row: Any, ticket: int) -> int:
        size = self._sizes.get(name, 0)
        if isinstance(row, bool) or not isinstance(row, int) or row < 0 or 0 < size <= row:
            upto = f"0 to {size - 1}" if size else "a whole number from 0 on"
            raise ConfigError(
                f"{self._where} names row {row!r} of {name!r} for ticket {ticket}: it has {upto}"
            )
        return row


def _takes_rewards(function: Callable[..., Any]) -> bool:
    """Tell whether a function wants to know how tasks go: it takes a third argument by place."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one without a signature, of an extension
        return False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in by_place for one in parameters) > 2


def load_curriculum(reference: str, base: Path, sizes: Mapping[str, int], seed: int) -> Curriculum:
    """Return the curriculum that `[policy].curriculum` names. Raises ConfigError."""
    where = "[policy].curriculum"
    function = load_object(reference, base, where)
    if not callable(function):
        raise ConfigError(f'{where} = "{reference}" is no function but {function!r}')
    return Curriculum(function, sizes, seed, f'{where} = "{reference}"')


def fingerprint(reference: str, base: Path) -> str:
    """Return what changes when the function in a file may have changed; "" without a curriculum."""
    place = reference.rpartition(":")[0]
    if not place.endswith(".py"):
        return reference
    try:
        return f"{reference} {xxhash.xxh3_64_hexdigest((base / place).read_bytes())}"
    except OSError:
        return reference
