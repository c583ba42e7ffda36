"""The k-th problem of a policy's tasks, and the held-out problems of one.

Everything here follows from the tasks' tables and a number: nothing is drawn, nothing remembered,
so two processes that read one topology agree. Knows nothing of tokenizers, models or rewards.
Called by the prompter, the evaluator, warm starts and `check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from realnet.errors import ConfigError, listed, nearest
from realnet.roles.messages import Standing
from realnet.roles.tables import Task
from realnet.roles.tasks.curriculum import Curriculum, load_curriculum
from realnet.roles.tasks.order import Mix, derive, shuffled
from realnet.roles.tasks.source import Rows, is_made, made, open_source
from realnet.roles.tasks.template import Template, read_template

EVAL_CAP = 192
"""Held-out problems of a task that sets no limit: one evaluation has a standard error of ~.03."""


class Problem(NamedTuple):
    """One problem: its prompt (before any chat template), its reference answer, its row.

    `source` says where a person finds it ("train.jsonl line 17").
    """

    prompt: str
    answer: str
    row: dict[str, str]
    chat: bool
    source: str = ""


class _OpenTask:
    """One task with its rows and template at hand, checked against each other."""

    def __init__(self, name: str, task: Task, base: Path) -> None:
        self.where = f"[tasks.{name}]"
        self.task = task
        self.rows: Rows = open_source(task.data, task.seed, base, self.where)
        self.template: Template = read_template(task.prompt, base, self.where)
        self._columns = {n: task.columns.get(n, n) for n in self.template.names}
        # a name in `columns` may also be used for the answer: one vocabulary for one table
        self._answer = task.columns.get(task.answer.column, task.answer.column)
        self.rows.require(self._columns.values(), self.where, "the prompt")
        self.rows.require([self._answer], self.where, "answer.column")

    def problem(self, index: int, *, held_out: bool) -> Problem:
        """Return the index-th problem in the rows' own order."""
        row = self.rows.row(index, held_out=held_out)
        prompt = self.template.fill({n: row[column] for n, column in self._columns.items()})
        source = self.rows.name(index)
        return Problem(prompt, self._extract(row, source), row, self.task.chat, source)

    def _extract(self, row: Mapping[str, str], source: str) -> str:
        text, after = row[self._answer], self.task.answer.after
        if not after:
            return text.strip()
        head, found, tail = text.rpartition(after)
        if not found:
            raise ConfigError(
                f"{self.where}.answer.after = {after!r}: {source} has no such text in its column "
                f"{self._answer!r}, which ends {text[-60:]!r}"
            )
        del head
        return tail.strip()

    def place(self, j: int) -> int:
        """Return which row the task's j-th training problem is: a new seeded order each epoch."""
        n = self.size(self.task.limit)
        if n is None:
            return j
        epoch, index = divmod(j, n)
        return shuffled(index, n, derive(self.task.seed, "epoch", epoch))

    def size(self, limit: int) -> int | None:
        """Return how many rows are in use under this limit (0: all); None when endless."""
        count = self.rows.count
        if count is None:
            return limit or None
        return min(count, limit) if limit else count


class Dataset:
    """All tasks of a topology: `train(k)` for the k-th ticket, `held_out(task)` for measuring.

    Files are read when first needed; `check()` reads them all. `curriculum` is a reference to a
    function that deals tickets instead of the tasks' weights.
    """

    def __init__(self, tasks: Mapping[str, Task], base: Path, curriculum: str = "") -> None:
        self._tasks, self._base = dict(tasks), base
        self._open: dict[str, _OpenTask] = {}
        self.train_names = sorted(n for n, task in self._tasks.items() if task.use == "train")
        self.eval_names = sorted(n for n, task in self._tasks.items() if task.use == "eval")
        weights = [self._tasks[name].weight for name in self.train_names]
        seed = derive(*(self._tasks[name].seed for name in self.train_names))
        self._mix = Mix(weights, seed) if weights else None
        self._seed, self._reference = seed, curriculum
        self._curriculum: Curriculum | None = None

    def train(self, k: int) -> tuple[str, Problem]:
        """Return (task name, problem) of ticket k. The same for ever, in every process."""
        if self._mix is None:
            raise ConfigError(
                'no task to train on: every [tasks.X] says use = "eval". Write one [tasks.X] '
                "without it"
            )
        row: int | None = None
        if self._reference:
            name, j, row = self._by_function()(k)
        else:
            which, j = self._mix(k)
            name = self.train_names[which]
        task = self._opened(name)
        return name, task.problem(task.place(j) if row is None else row, held_out=False)

    @property
    def num_standings(self) -> int:
        """How many standings a curriculum knows; -1: there is none, so none are needed."""
        return self._by_function().num_standings if self._reference else -1

    def learn(self, standings: Iterable[Standing]) -> None:
        """Let the curriculum know how tasks went, before tickets are dealt that this is for."""
        if self._reference:
            self._by_function().learn(standings)

    def _by_function(self) -> Curriculum:
        if self._curriculum is None:
            sizes = {name: self.num_rows(name) for name in self.train_names}
            self._curriculum = load_curriculum(self._reference, self._base, sizes, self._seed)
        return self._curriculum

    def nth(self, name: str, j: int) -> Problem:
        """Return the j-th problem of one task, in the order in which it is trained on."""
        task = self._opened(name)
        return task.problem(task.place(j), held_out=task.task.use == "eval")

    def num_rows(self, name: str) -> int:
        """Return how many problems a task has, its limit counted; 0: no end of them."""
        task = self._opened(name)
        return task.size(task.task.limit) or 0

    def held_out(self, name: str, cap: int = EVAL_CAP) -> list[Problem]:
        """Return the problems that a task is measured on: its `limit`, or else at most `cap`.

        A file's are its first rows, in order; a made task's never occur in training.
        """
        task = self._opened(name)
        count = task.size(task.task.limit or cap) or 0
        return [task.problem(index, held_out=True) for index in range(count)]

    def check(self) -> None:
        """Read everything and make every answer. Raises ConfigError, all mistakes in one text."""
        problems: list[str] = []
        for name in sorted(self._tasks):
            try:
                task = self._opened(name)
                for index in range(task.size(0) or 1):
                    task.problem(index, held_out=self._tasks[name].use == "eval")
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))
        if self._reference and self.train_names:
            self._by_function().check()

    def _opened(self, name: str) -> _OpenTask:
        if name not in self._tasks:
            raise ConfigError(
                f"no task {name!r}.{nearest(name, self._tasks)} There are: {listed(self._tasks)}"
            )
        if name not in self._open:
            self._open[name] = _OpenTask(name, self._tasks[name], self._base)
        return self._open[name]


def check_tasks(
    tasks: Mapping[str, Task],
    base: Path,
    use: Literal["train", "eval", "any"] = "any",
    curriculum: str = "",
) -> None:
    """Check data, template and answer of every task of this use, and a curriculum.

    Raises ConfigError.

    Imports nothing heavy. With use = "train" there must be such a task.
    """
    chosen = {name: task for name, task in tasks.items() if use in ("any", task.use)}
    dataset = Dataset(chosen, base, curriculum)
    dataset.check()
    if use == "train":
        dataset.train(0)


def demos(
    task: Task, k: int, progress: float = 0.0, where: str = "[tasks]", base: Path = Path()
) -> tuple[str, str]:
    """Return the k-th demonstration (prompt, response) of a made task, for a warm start.

    Raises ConfigError for a task that is read from a file: it has no demonstrations.
    """
    if not is_made(task.data):
        raise ConfigError(
            f"{where}.data = {task.data!r}: a warm start needs demonstrations, which only made "
            'tasks ("new:addz") have. Start from a trained model, or leave the warm start out'
        )
    maker = made(task.data, base, where)
    if not hasattr(maker, "demo"):
        raise ConfigError(
            f"{where}.data = {task.data!r} makes no demonstrations for the warm start: give it a "
            "method demo(seed, k, progress) that returns (prompt, response)"
        )
    return maker.demo(task.seed, k, progress)
