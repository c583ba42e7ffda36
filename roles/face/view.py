"""The live view of a training run: progress, vital signs, warnings, and who does what.

In a terminal a display that is drawn anew; elsewhere a line every few steps. Both end in a summary
of what was learnt, how far generation and training overlapped, and where every ticket went.

Knows what the rows mean (`rows.py`). Called by `realnet run` through `realnet.observe.view`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from realnet.head import Head
from realnet.observe.record import read_rows
from realnet.observe.view import Row, View
from realnet.roles.face import words
from realnet.roles.face.idle import Idle
from realnet.roles.face.overlap import Overlap, measure
from realnet.roles.face.rows import IDLE, Rows, number, older, sign
from realnet.roles.face.track import Track, make_track
from realnet.roles.face.warnings import warnings
from realnet.topology.plan import Plan

EVERY_STEPS = 5  # a line without a terminal
EVERY_S = 30.0  # or after so long
_OVERLAP_S = 5.0  # how old the overlap on the screen may be
_NEVER_BUSY = 0.995  # idle shares from here on are not shown live
_NARROW = 90  # columns of a terminal

Cell = tuple[str, str]


class RLView(View):
    """Shows one training run on one console."""

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic):
        super().__init__(console)
        self.rows = Rows()
        self.others: dict[str, Rows] = {}  # of further policies
        self._now = now
        self._told_step, self._told_s = 0, now()
        self._told_doing = ""
        self._overlap: Overlap | None = None
        self._overlap_s = -_OVERLAP_S
        self._idle: Idle | None = None
        self._track: Track | None = None

    # ------------------------------------------------------------ what comes in

    def start(self, plan: Plan, head: Head) -> None:
        """Read what earlier attempts wrote, so that curves and summary are of the whole run."""
        policy, *others = words.policies_of(plan) or [""]
        self.rows = Rows(words.foreign_to(plan, policy) if others else ())
        self.others = {other: Rows(words.foreign_to(plan, other)) for other in others}
        info = getattr(head, "run_info", None)
        if info is not None and info.attempt > 1:
            for rows in (self.rows, *self.others.values()):
                rows.add_all("metrics", read_rows(info.folder / "metrics.jsonl"))
                rows.add_all("event", read_rows(info.folder / "events.jsonl"))
            self._told_step = self.rows.step
        self._idle = Idle(plan)
        if info is not None:
            names = words.table_of(plan.shared, "run").get("track") or ()
            keys = {name: role.config for name, role in plan.roles.items()}
            self._track = make_track(
                names, info.folder, plan.title, {"roles": keys, **plan.shared}, self.say
            )
        super().start(plan, head)

    def row(self, kind: str, row: Row) -> None:
        """Sort a row in, hand it to trackers, then show it if it is an event."""
        for rows in (self.rows, *self.others.values()):
            rows.add(kind, row)
        if kind == "metrics" and self._track is not None:
            self._track.row(row)
        super().row(kind, row)
        if kind == "metrics" and self.rows.steps and self.rows.steps[-1] is row:
            self._measure_idle(row)

    def _measure_idle(self, row: Row) -> None:
        """Write how idle each role was; it comes back as a row."""
        if self.head is None or self._idle is None:
            return
        now_s = self._now()
        shares = self._idle.step(self.head.record.busy, now_s)
        if shares:
            values = {f"{IDLE}{role}": round(share, 4) for role, share in shares.items()}
            self.head.record.write("head/0", "metrics", now_s, {"step": row["step"], **values})

    def stop(self) -> None:
        """The run has ended."""
        super().stop()
        if self._track is not None:
            self._track.close()
            self._track = None

    # ------------------------------------------------------------ in a terminal

    def headline(self) -> list[RenderableType]:
        """Return progress, vital signs and warnings."""
        parts: list[RenderableType] = [self._progress()]
        if self.rows.steps:
            parts.append(self._vitals())
        lines = Table.grid()  # its cells wrap
        counts = words.balance({k: n for k, n in self.rows.tickets().items() if n})
        if counts:
            lines.add_row(Text(f"ledger: {counts}", style="dim"))
        for policy, rows in self.others.items():
            lines.add_row(Text(words.other_line(policy, rows, rows.tickets()), style="dim"))
        for text in warnings(self.rows, words.policy_of(self._shared)):
            lines.add_row(Text(f"! {text}", style="yellow"))
        return [*parts, lines, Text("")]

    def _progress(self) -> Table:
        step, until = self.rows.step, words.planned_steps(self._shared)
        left_s = words.seconds_left(self.rows, self._shared)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(self.plan.title if self.plan else "", style="bold"),
            ProgressBar(total=max(until, 1), completed=step, width=30),
            f"step {step}/{until or '?'}",
            Text(f"{words.duration(left_s)} left" if left_s is not None else "", style="dim"),
        )
        return line

    def _vitals(self) -> Table:
        cells = list(self._cells())
        columns = 2 if self.console.width < _NARROW else 3
        table = Table.grid(padding=(0, 2))
        for i in range(0, len(cells), columns):
            row: list[RenderableType] = []
            for label, value in cells[i : i + columns]:
                row += [Text(label, style="dim"), Text(value, style="bold")]
            table.add_row(*row)
        return table

    def _cells(self) -> Iterator[Cell]:
        """Yield the vital signs as (label, value)."""
        rows, last = self.rows, self.rows.steps[-1]
        rewards = [value for _, value in rows.curve("reward")]
        yield "reward", f"{words.short(number(last, 'reward'))} {words.spark(rewards)}"
        for task in rows.tasks():
            shares = [m.share for m in rows.measured(task)]
            yield task, f"{shares[-1]:.2f} {words.spark(shares, low=0.0)}"
        yield "entropy", words.short(number(last, "entropy"))
        yield "KL", words.short(sign(last, "kl"))
        if (far := sign(last, "kl_ref")) is not None:
            yield "KL to reference", words.short(far)
        weights = words.short(sign(last, "weight_max"))
        yield "weights", f"max {weights}, ESS {words.percent(sign(last, 'ess'))}"
        yield "ratio tail", words.percent(sign(last, "ratio_tail"))
        yield "clipped", words.percent(sign(last, "clip_fraction"))
        yield "grad norm", words.short(number(last, "grad_norm"))
        yield "length", f"{words.short(number(last, 'response_tokens'))} tokens"
        yield "truncated", words.percent(number(last, "truncated"))
        yield "equal groups", words.percent(number(last, "groups_equal"))
        ages = [number(last, f"age_{age}") or 0.0 for age in rows.ages()]
        if ages:
            bars = "".join(words.spark([0.0, share, 1.0])[1] for share in ages)
            yield "token ages", f"{bars} {words.percent(older(last))} old"
        speed = rows.tokens_per_s()
        if speed is not None:
            yield "generated", f"{words.short(speed)} tokens/s"
        yield "version", f"{words.short(number(last, 'branch'))}.{rows.step}"
        for role in rows.idle_roles():
            if rows.idle(role)[-1][1] < _NEVER_BUSY:
                yield f"{role} idle", words.percent(rows.idle(role)[-1][1])
        overlap = self._overlapped()
        if overlap is not None:
            yield "both busy", words.percent(overlap.share)

    # ------------------------------------------------------------ elsewhere

    def line(self) -> str:
        """Return a line every few steps; before the first, now and then what the trainer does."""
        step, now_s = self.rows.step, self._now()
        self._told_step = min(self._told_step, step)  # a trainer may go back to a checkpoint
        if step == self._told_step:
            return self._before_steps(now_s)
        until = words.planned_steps(self._shared)
        due = step // EVERY_STEPS > self._told_step // EVERY_STEPS or step in (1, until)
        if not due and now_s - self._told_s < EVERY_S:
            return ""
        self._told_step, self._told_s = step, now_s
        return self._line(until)

    def _line(self, until: int) -> str:
        rows, last = self.rows, self.rows.steps[-1]
        off_policy, masked = older(last), number(last, "tokens_masked")
        parts = [
            f"step {rows.step}/{until or '?'}",
            f"reward {words.short(number(last, 'reward'))}",
            *(f"{task} {rows.measured(task)[-1].share:.2f}" for task in rows.tasks()),
            f"length {words.short(number(last, 'response_tokens'))}",
            f"entropy {words.short(number(last, 'entropy'))}",
            f"KL {words.short(sign(last, 'kl'))}",
            f"ESS {words.percent(sign(last, 'ess'))}",
            *([f"off-policy {words.percent(off_policy)}"] if off_policy is not None else []),
            *([f"too old {words.percent(masked)}"] if masked else []),
        ]
        for policy, other in self.others.items():
            if other.steps:
                reward = words.short(number(other.steps[-1], "reward"))
                parts.append(f"{policy} step {other.step} reward {reward}")
        left_s = words.seconds_left(rows, self._shared)
        if left_s:
            parts.append(f"{words.duration(left_s)} left")
        parts += [f"! {text}" for text in warnings(rows, words.policy_of(self._shared))[:2]]
        time_s = number(last, "time_s") or 0.0
        return f"{time_s:7.1f}s  {last.get('actor', ''):<20} {'  '.join(parts)}"

    def _before_steps(self, now_s: float) -> str:
        """Return how far a warm start is, at intervals; "" once there are steps."""
        if self.rows.steps or self.head is None or now_s - self._told_s < EVERY_S / 3:
            return ""
        role = words.role_of(self.plan, "trainer")
        doings = (
            (actor, text)
            for status in self.head.status.values()
            for actor, text in status.doing.items()
            if actor.rpartition("/")[0] == role and text
        )
        actor, text = next(doings, ("", ""))
        if not text or text == self._told_doing:
            return ""
        self._told_doing, self._told_s = text, now_s
        time_s = now_s - self.head.record.started_s
        return f"{time_s:7.1f}s  {actor:<20} {text}"

    # ------------------------------------------------------------ at the end

    def summary(self) -> list[str]:
        """Return what was learnt, how long it took, the overlap and the ledger."""
        rows = self.rows
        lines = [words.task_line(rows, task, self._shared) for task in rows.tasks()]
        if rows.steps:
            attempts = f" in {len(rows.ended_s)} attempts" if len(rows.ended_s) > 1 else ""
            lines.append(f"{rows.step} steps, {words.duration(rows.wall_s)}{attempts}")
        overlap = self._overlapped(fresh=True)
        if overlap is not None:
            lines.append(str(overlap))
        counts = words.balance(_final_tickets(rows))
        if counts:
            lines.append(f"ledger: {counts}")
        for policy, other in self.others.items():
            lines.append(words.other_line(policy, other, _final_tickets(other)))
        return lines

    def _overlapped(self, fresh: bool = False) -> Overlap | None:
        """Measure the overlap of this attempt so far, anew at intervals."""
        now_s = self._now()
        if self.head is None or not (fresh or now_s - self._overlap_s >= _OVERLAP_S):
            return self._overlap
        window = self.rows.window()
        if window is not None:
            record = self.head.record
            start_s, end_s = (record.started_s + t for t in window)
            generator = record.busy.role(words.role_of(self.plan, "generator"), start_s)
            trainer = record.busy.role(words.role_of(self.plan, "trainer"), start_s)
            self._overlap = measure(generator, trainer, (start_s, end_s))
            self._overlap_s = now_s
        return self._overlap

    @property
    def _shared(self) -> dict[str, dict[str, object]]:
        return self.plan.shared if self.plan else {}


def _final_tickets(rows: Rows) -> dict[str, int]:
    """Return the counts of the closed books, unless those of the last step are newer."""
    live, closed = rows.tickets(), rows.closed
    return closed if closed.get("issued", -1) >= live.get("issued", 0) else live
