"""The samples of a run, read and chosen: of which step and task, lowest or highest reward first.

Knows the lines that `realnet.roles.samples` writes, not terminals. Called by the verb `samples`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from realnet.errors import RunFolderError, listed, nearest
from realnet.roles.samples import EVAL_FILE, GREEDY, TRAIN_FILE, decoding_of

Line = dict[str, Any]
_STEPS_SHOWN = 12


class Token(NamedTuple):
    """One token of an answer: who wrote it, and both log-probabilities (None: not known)."""

    id: int
    version: str
    logprob: float
    trainer: float | None

    @property
    def gap(self) -> float | None:
        """Return trainer minus generator."""
        return None if self.trainer is None else self.trainer - self.logprob


def read_samples(folder: Path, policies: Sequence[str]) -> list[Line]:
    """Return all samples of a run; of a step that was taken again, those of the last time.

    Raises RunFolderError when there are none.
    """
    found: dict[tuple[Any, ...], Line] = {}
    for path in (folder / EVAL_FILE, *_train_files(folder, policies)):
        for line in _lines(path):
            trained = path.name == TRAIN_FILE
            number = line.get("ticket") if trained else line.get("problem")
            which = (number, line.get("sample"), decoding_of(line))
            key = (path.parent, trained, line["step"], line["task"], *which)
            found[key] = {**line, "trained": trained}
    if not found:
        raise RunFolderError(
            f"{folder}: there are no samples yet: an evaluator writes some of every evaluation, a "
            "trainer some of every step ([roles.trainer].samples)"
        )
    return sorted(found.values(), key=lambda line: int(line["step"]))


def choose(
    lines: Sequence[Line],
    *,
    step: int | None,
    task: str,
    order: str,
    kind: str,
    decoding: str = "",
) -> list[Line]:
    """Return samples of one step (None: the newest with any) and task, by reward if wanted.

    `order` is "lowest", "highest" or "" (as written), `kind` "train", "eval" or "", `decoding`
    "greedy", "sampled" or "". Answers without a reward come first when the lowest are asked for,
    and last otherwise. Raises RunFolderError saying which steps and tasks there are.
    """
    if kind:
        lines = _some(
            [line for line in lines if line["trained"] == (kind == "train")],
            f"no samples of kind {kind!r} in this run",
        )
    if decoding:
        lines = _some(
            [line for line in lines if decoding_of(line) == decoding],
            f"no {decoding} answers in this run's samples"
            + (": [tasks.X].greedy = false, or an older realnet wrote them" * (decoding == GREEDY)),
        )
    if task:
        names = sorted({line["task"] for line in lines})
        lines = _some(
            [line for line in lines if line["task"] == task],
            f"no samples of task {task!r}.{nearest(task, names)} There are: {listed(names)}",
        )
    steps = sorted({int(line["step"]) for line in lines})
    step = steps[-1] if step is None else step
    near = sorted(sorted(steps, key=lambda s: abs(s - step))[:_STEPS_SHOWN])
    lines = _some(
        [line for line in lines if line["step"] == step],
        f"no samples of step {step}. Steps near it that have some: {', '.join(map(str, near))}",
    )
    if not order:
        return list(lines)
    low = order == "lowest"
    sign, last = (1.0, float("-inf")) if low else (-1.0, float("inf"))
    return sorted(lines, key=lambda line: last if line["reward"] is None else sign * line["reward"])


def tokens(line: Line) -> list[Token]:
    """Return the tokens of an answer, each with the version that wrote it."""
    spans = line.get("versions", [])
    ends = list(accumulate(length for _, _, length in spans))
    trainer = line.get("trainer_logprobs") or []
    made: list[Token] = []
    at = 0
    for number, (token, logprob) in enumerate(
        zip(line.get("tokens", []), line.get("logprobs", []), strict=False)
    ):
        while at < len(ends) and number >= ends[at]:
            at += 1
        version = f"v{spans[at][0]}.{spans[at][1]}" if at < len(spans) else "?"
        own = trainer[number] if number < len(trainer) else None
        made.append(Token(token, version, logprob, own))
    return made


def _train_files(folder: Path, policies: Sequence[str]) -> list[Path]:
    places = [folder, *(folder / name for name in policies)]
    return [place / TRAIN_FILE for place in places]


def _some(lines: list[Line], complaint: str) -> list[Line]:
    if not lines:
        raise RunFolderError(complaint)
    return lines


def _lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file that are whole; the last one may be being written."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int) and "task" in line:
                yield {"reward": None, "parts": {}, **line}
