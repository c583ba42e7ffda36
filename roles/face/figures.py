"""Which pictures of a run are shown, and how each is drawn. Called by the report.

Knows the names of the vital signs. Knows nothing of files or of HTML around a picture.
"""

from __future__ import annotations

from typing import NamedTuple

from realnet.roles.face import words
from realnet.roles.face.charts import (
    Format,
    Series,
    column_chart,
    line_chart,
    stacked_chart,
)
from realnet.roles.face.rows import Rows, number, older
from realnet.roles.face.story import Story
from realnet.roles.face.strips import Lane, bar_colors, bars, strip

WIDE, NARROW = 1080, 360
_ZOOM_STEPS = 5
_WORKS = 0.98  # a role that was always more idle than this is not drawn
_LABELS = 5  # kinds of work that have a colour of their own


class Figure(NamedTuple):
    """One picture: its title, the newest value, the drawing, names of colours, what it means."""

    title: str
    value: str
    chart: str
    legend: list[tuple[str, int]] = []
    about: str = ""


class Picture(NamedTuple):
    """A drawing in two widths, of which the page shows the one that fits."""

    wide: str
    narrow: str
    legend: list[tuple[str, int]] = []
    about: str = ""


_SIGNS: list[tuple[str, str, Format, str]] = [
    ("reward", "reward", words.short, "mean of the batch"),
    ("response_tokens", "answer length", words.short, "tokens, mean of the batch"),
    ("entropy", "entropy", words.short, "of the generator's tokens, in nats"),
    ("kl", "KL", words.short, "generator to trainer, per token"),
    ("kl_ref", "KL to the reference", words.short, "per token"),
    ("ess", "effective sample size", words.percent, "100 %: all importance weights are alike"),
    ("weight_max", "largest importance weight", words.short, "trainer / generator, any token"),
    ("ratio_tail", "ratio tail", words.percent, "tokens over twice or under half as likely"),
    ("clip_fraction", "clipped tokens", words.percent, "outside the trust region"),
    ("grad_norm", "gradient norm", words.short, "before clipping"),
    ("groups_equal", "groups with equal rewards", words.percent, "they teach nothing"),
    ("groups_unfit", "groups dropped", words.short, "by dynamic sampling, for one step"),
    ("truncated", "answers cut at max_tokens", words.percent, ""),
]


def signs(rows: Rows) -> list[Figure]:
    """Return the vital signs that the run has, as small charts."""
    found = []
    for i, (name, title, show, about) in enumerate(_SIGNS):
        curve = rows.curve(name)
        if curve:
            chart = line_chart([Series(title, curve, i % 6 + 1)], show=show)
            found.append(Figure(title, show(curve[-1][1]), chart, about=about))
    for figure in (_ages(rows), _all_ages(rows), _step_time(rows), _speed(rows), _idle(rows)):
        if figure is not None:
            found.append(figure)
    return found


def _ages(rows: Rows) -> Figure | None:
    ages = rows.ages()
    if not ages:
        return None
    series = [
        Series(
            f"age {age}",
            [(float(row["step"]), number(row, f"age_{age}") or 0.0) for row in rows.steps],
            _age_color(i),
        )
        for i, age in enumerate(ages)
    ]
    return Figure(
        "token age",
        f"{words.percent(older(rows.steps[-1]))} older than 0",
        stacked_chart(series, show=words.percent),
        [(f"age {age}", _age_color(i)) for i, age in enumerate(ages[:6])],
        "versions between writing a token and training on it",
    )


def _all_ages(rows: Rows) -> Figure | None:
    """Return the histogram of token ages over the whole run."""
    counts: dict[int, float] = {}
    for row in rows.steps:
        for age in rows.ages():
            share = number(row, f"age_{age}") or 0.0
            counts[age] = counts.get(age, 0.0) + share * (number(row, "tokens") or 0.0)
    total = sum(counts.values())
    if total <= 0:
        return None
    columns = [(str(age), counts[age] / total) for age in sorted(counts)]
    mean = sum(age * count for age, count in counts.items()) / total
    return Figure(
        "token age, all steps",
        f"mean {words.short(mean)}",
        column_chart(columns, show=words.percent, label="token ages"),
        about="versions; share of all tokens that were in batches",
    )


def _age_color(i: int) -> int:
    return (1, 3, 5, 2, 6, 4)[min(i, 5)]


def _step_time(rows: Rows) -> Figure | None:
    times = rows.step_times()
    if not times:
        return None
    series = [Series("step to step", times, 1)]
    compute = rows.curve("step_s")
    if compute:
        series.append(Series("training", compute, 2))
    return Figure(
        "seconds a step",
        words.short(times[-1][1]),
        line_chart(series, show=words.short),
        [(s.name, s.color) for s in series] if len(series) > 1 else [],
        "wall time, and the part spent in the gradient step",
    )


def _speed(rows: Rows) -> Figure | None:
    curve = rows.speed_curve()
    if not curve:
        return None
    chart = line_chart([Series("tokens/s", curve, 3)])
    return Figure(
        "tokens generated a second", words.short(curve[-1][1]), chart, about="evaluation included"
    )


def _idle(rows: Rows) -> Figure | None:
    """Return the idle share of the roles that do most of the work."""
    curves = {role: rows.idle(role) for role in rows.idle_roles()}
    least = {role: min(share for _, share in curve) for role, curve in curves.items()}
    busiest = sorted((r for r in least if least[r] < _WORKS), key=lambda role: least[role])[:4]
    if not busiest:
        return None
    series = [Series(role, curves[role], i + 1) for i, role in enumerate(busiest)]
    return Figure(
        "idle share of roles",
        f"{busiest[0]} {words.percent(curves[busiest[0]][-1][1])}",
        line_chart(series, y_range=(0.0, 1.0), show=words.percent),
        [(s.name, s.color) for s in series],
        "share of the last steps in which a role computed nothing",
    )


# ------------------------------------------------------------ time


def timeline(story: Story) -> Picture | None:
    """Return the busy strip of the whole last attempt."""
    ends = [b for spans in story.spans.values() for _, b in spans]
    last = max(story.rows.ended_s, default=1)
    end_s = max([story.rows.ended_s.get(last, 0.0), *ends])
    if not ends or end_s <= 0:
        return None
    about = (
        "the whole attempt; the grey window, from the first to the last step, is what is counted"
    )
    return _strip(story, (0.0, end_s), about, shade=story.rows.window())


def zoom(story: Story) -> Picture | None:
    """Return the busy strip of a few steps in the middle of the last attempt."""
    last = max(story.rows.ended_s, default=1)
    times = [
        (t, int(row["step"]))
        for row in story.rows.steps
        if row.get("attempt", 1) == last and (t := number(row, "time_s")) is not None
    ]
    if len(times) < 3 or not story.spans:
        return None
    reach = min(_ZOOM_STEPS, len(times) - 1)
    first = (len(times) - reach) // 2
    shown = times[first : first + reach + 1]
    if shown[-1][0] <= shown[0][0]:
        return None
    about = f"steps {shown[0][1] + 1} to {shown[-1][1]} close up; dotted: a step is done"
    marks = [(t, f"step {step} done") for t, step in shown]
    return _strip(story, (shown[0][0], shown[-1][0]), about, marks=marks)


def _strip(
    story: Story,
    window: tuple[float, float],
    about: str,
    *,
    marks: list[tuple[float, str]] | None = None,
    shade: tuple[float, float] | None = None,
) -> Picture:
    lanes = [
        Lane("generator", story.role("generator"), 1),
        Lane("trainer", story.role("trainer"), 2),
    ]
    rewarder = story.role("rewarder")
    if rewarder:
        lanes.append(Lane("rewarder", rewarder, 3))
    drawn = [
        strip(lanes, window, width=width, marks=marks or (), shade=shade)
        for width in (WIDE, NARROW)
    ]
    return Picture(drawn[0], drawn[1], about=about)


def work(story: Story) -> Picture | None:
    """Return how much of the last attempt each actor computed, and at what."""
    total: dict[str, float] = {}
    for by_label in story.seconds.values():
        for label, s in by_label.items():
            total[label] = total.get(label, 0.0) + s
    named = sorted(total, key=lambda label: -total[label])[:_LABELS]
    rows = []
    for actor, by_label in sorted(story.seconds.items(), key=lambda kv: -sum(kv[1].values())):
        pieces = [(label, by_label[label]) for label in named if label in by_label]
        other = sum(s for label, s in by_label.items() if label not in named)
        rows.append((actor, [*pieces, *([("other", other)] if other > 0 else [])]))
    if not rows:
        return None
    last = max(story.rows.ended_s, default=1)
    of_s = max(
        story.rows.ended_s.get(last, 0.0), *(sum(by.values()) for by in story.seconds.values())
    )
    return Picture(
        bars(rows, width=WIDE, of_s=of_s),
        bars(rows, width=NARROW, of_s=of_s),
        bar_colors(rows),
        f"share of the {words.duration(of_s)} of the last attempt in which a role computed",
    )
