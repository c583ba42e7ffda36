"""Hands the rows of a run to trackers: TensorBoard's event files, or wandb.

`[run] track = ["tensorboard", "wandb"]` asks for them; each needs its package. They are written by
a thread of their own: a slow disk or network never holds up the run. A tracker that fails is told
of once and given up; metrics.jsonl has everything anyway.

Knows rows and trackers, not where rows come from. Called by the view.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from realnet.errors import ConfigError
from realnet.roles.face.rows import Row, number

T = TypeVar("T")
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_CLOSE_S = 20.0  # how long the end of a run waits for what is still to be written
_ABOUT_ROW = ("time_s", "attempt", "actor", "step", "branch", "warm_step")
_AGE = re.compile(r"age_(\d{1,6})")


class Point(NamedTuple):
    """What one row says, for a tracker: values by tag, and the shares of token ages.

    `trainer` is who took the step that it tells of; "" when it tells of something else.
    """

    step: int
    values: dict[str, float]
    ages: dict[int, float]
    trainer: str = ""


class Tracker(Protocol):
    """Where points go."""

    def write(self, point: Point) -> None: ...
    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f'[run].track: "{name}" needs the package {PACKAGES[name]}, which is not '
                f"installed: pip install 'realnet-rl[{name}]', or take it out"
            )


class Points:
    """Makes points of rows: rows without a step belong to the last one that was trained."""

    def __init__(self) -> None:
        self._step = 0

    def of(self, row: Row) -> Point | None:
        """Return what a row of metrics says; None when it says nothing."""
        values = {k: v for k in row if k not in _ABOUT_ROW and (v := number(row, k)) is not None}
        step, warm = number(row, "step"), number(row, "warm_step")
        actor = str(row.get("actor", ""))
        trainer = actor if step is not None and "grad_norm" in values else ""
        if trainer and step is not None:
            self._step = int(step)
        at = step if step is not None else warm if warm is not None else self._step
        ages = {int(m[1]): v for k, v in values.items() if (m := _AGE.fullmatch(k))}
        named = {_tag(k, actor, step): v for k, v in values.items()}
        return Point(int(at), named, ages, trainer) if named else None


def _tag(key: str, actor: str, step: float | None) -> str:
    """Return "train/reward", "tickets/trained", "warm/loss", "generator/0/tokens_per_s".

    A second policy's trainer has another name, which then stands before all of its values.
    """
    if "/" in key:
        return key
    role = actor.rpartition("/")[0]
    own = "" if role in ("trainer", "") else f"{role}/"
    for prefix in ("tickets_", "warm_", "age_"):
        if key.startswith(prefix) and key != "age_mean":
            return f"{own}{prefix[:-1]}/{key.removeprefix(prefix)}"
    if step is None:
        return f"{actor}/{key}"
    return f"{own or 'train/'}{key}"


class TensorBoard:
    """Event files in a folder. After a trainer went back to a checkpoint, undone steps go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, int] = {}
        self._writer = self._open(None)

    def _open(self, purge: int | None) -> Any:
        from tensorboardX import SummaryWriter

        # A file is named after its second: two that are opened in one must not be the same.
        there = len(list(self._folder.glob("*"))) if self._folder.is_dir() else 0
        return SummaryWriter(str(self._folder), purge_step=purge, filename_suffix=f".{there}")

    def write(self, point: Point) -> None:
        """Write the values, and a histogram of token ages."""
        if point.trainer:
            if point.step <= self._last.get(point.trainer, -1):
                self._writer.close()
                self._writer = self._open(point.step)
            self._last[point.trainer] = point.step
        for tag, value in point.values.items():
            self._writer.add_scalar(tag, value, point.step)
        if point.ages:
            self._histogram(point)

    def _histogram(self, point: Point) -> None:
        """One bucket for each age; the counts are shares in thousandths of the tokens."""
        ages = sorted(point.ages)
        counts = [1000.0 * point.ages[age] for age in ages]
        total = sum(a * c for a, c in zip(ages, counts, strict=True))
        squares = sum(a * a * c for a, c in zip(ages, counts, strict=True))
        self._writer.add_histogram_raw(
            "token age",
            float(ages[0]),
            float(ages[-1]),
            sum(counts),
            total,
            squares,
            [a + 0.5 for a in ages],
            counts,
            point.step,
        )

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Wandb:
    """One run of Weights & Biases; a resumed run goes on with it. Offline unless logged in."""

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or (
            "online" if os.environ.get("WANDB_API_KEY") else "offline"
        )
        identity = re.sub(r"[^\w-]", "-", f"{name}-{zlib.crc32(str(folder.resolve()).encode())}")
        self._run = wandb.init(
            project=project,
            name=name,
            id=identity,
            resume="allow",
            dir=str(folder),
            mode=mode,
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, point: Point) -> None:
        """Log the values beside their step."""
        self._run.log({"step": point.step, **point.values})

    def close(self) -> None:
        """Finish the run: what is left is written, and wandb's own process ends."""
        import wandb

        self._run.finish()
        wandb.teardown()


class Track:
    """All trackers of one run, behind a thread. `say` hears of one that failed."""

    def __init__(
        self, makers: Mapping[str, Callable[[], Tracker]], say: Callable[[str], None]
    ) -> None:
        self._makers = dict(makers)
        self._say = say
        self._points = Points()
        self._queue: queue.SimpleQueue[Point | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="track", daemon=True)
        self._thread.start()

    def row(self, row: Row) -> None:
        """Hand on a row of metrics."""
        point = self._points.of(row)
        if point is not None:
            self._queue.put(point)

    def close(self) -> None:
        """Write what waits, for a while; then leave it."""
        self._queue.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._say(f"a tracker had not finished after {_CLOSE_S:.0f} s: its end is missing")

    def _work(self) -> None:
        trackers: dict[str, Tracker] = {}
        for name, make in self._makers.items():
            made = self._try(name, make)
            if made is not None:
                trackers[name] = made
        while (point := self._queue.get()) is not None:
            for name, tracker in list(trackers.items()):
                if self._try(name, partial(_written, tracker, point)) is None:
                    del trackers[name]
        for name, tracker in trackers.items():
            self._try(name, tracker.close)

    def _try(self, name: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as error:  # a tracker's own fault must not end a run
            self._say(f"{name} is given up: {error!r}; metrics.jsonl has everything")
            return None


def _written(tracker: Tracker, point: Point) -> bool:
    tracker.write(point)
    return True


def make_track(
    names: Sequence[str],
    folder: Path,
    project: str,
    config: Mapping[str, Any],
    say: Callable[[str], None],
) -> Track | None:
    """Return the trackers of these names for a run's folder; None when none is asked for."""
    if not names:
        return None
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
        "wandb": lambda: Wandb(folder, project, folder.name, config),
    }
    return Track({name: makers[name] for name in names}, say)
