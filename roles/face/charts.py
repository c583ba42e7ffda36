"""Small SVG charts: lines, stacked shares, bars. Pure functions from numbers to text.

Colours as in `canvas.py`. Values that are not finite are left out. Text is escaped here: what comes
back may be put into a page as it is.

Knows nothing of runs. Called by `figures.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from realnet.roles.face.canvas import svg
from realnet.roles.face.words import short

Points = Sequence[tuple[float, float]]
Format = Callable[[float | None], str]

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 24
_MOST = 240  # points of one line; more are averaged
_HUGE = 1e30  # also keeps NaN out: it is not below anything
_TREND = 24  # points from which a line is drawn with its moving mean


class Series(NamedTuple):
    """One line: its name, points by rising x, and its colour (1 to 6). `dots` marks each point."""

    name: str
    points: Points
    color: int = 1
    dots: bool = False


class Frame(NamedTuple):
    """Where values lie in a picture."""

    width: int
    height: int
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """Return the pixel of an x value."""
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the pixel of a y value; one outside the range is put on its edge."""
        inside = min(max(value, self.y0), self.y1)
        share = (inside - self.y0) / (self.y1 - self.y0)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)


def line_chart(
    series: Sequence[Series],
    *,
    width: int = 360,
    height: int = 190,
    y_range: tuple[float, float] | None = None,
    show: Format = short,
    x_name: str = "step",
    label: str = "",
) -> str:
    """Return lines over x. Without points: a chart that says so. `show` writes y values."""
    kept = [s._replace(points=thin(finite(s.points))) for s in series]
    kept = [s for s in kept if s.points]
    if not kept:
        return empty_chart(width, height)
    frame = _frame([p for s in kept for p in s.points], width, height, y_range)
    parts = [_axes(frame, show, x_name)]
    for one in kept:
        parts.append(_line(one, frame))
    parts.append(_hover(kept, frame, show, x_name))
    return svg(width, height, "".join(parts), label or ", ".join(s.name for s in kept))


def stacked_chart(
    series: Sequence[Series],
    *,
    width: int = 360,
    height: int = 190,
    show: Format = short,
    x_name: str = "step",
    label: str = "",
) -> str:
    """Return shares that add up to at most 1, stacked. All series have points at the same x."""
    kept = [s._replace(points=thin(finite(s.points))) for s in series]
    kept = [s for s in kept if s.points]
    if not kept or len({tuple(x for x, _ in s.points) for s in kept}) != 1:
        return empty_chart(width, height)
    frame = _frame(kept[0].points, width, height, (0.0, 1.0))
    low = [0.0] * len(kept[0].points)
    parts = [_axes(frame, show, x_name)]
    for one in kept:
        high = [a + y for a, (_, y) in zip(low, one.points, strict=True)]
        xs = [x for x, _ in one.points]
        outline = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        corners = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in outline)
        parts.append(
            f'<polygon points="{corners}" style="fill:var(--c{one.color});stroke:var(--surface);'
            'stroke-width:.6" fill-opacity=".82"/>'
        )
        low = high
    parts.append(_hover(kept, frame, show, x_name))
    return svg(width, height, "".join(parts), label or ", ".join(s.name for s in kept))


def column_chart(
    columns: Sequence[tuple[str, float]],
    *,
    width: int = 360,
    height: int = 190,
    show: Format = short,
    label: str = "",
) -> str:
    """Return one column for each (name, value); values are 0 or more."""
    if not columns:
        return empty_chart(width, height)
    top = max(value for _, value in columns) or 1.0
    frame = Frame(width, height, 0.0, float(len(columns)), 0.0, top * 1.12)
    bottom = height - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for i, (name, value) in enumerate(columns):
        x, y = frame.x(i + 0.15), frame.y(value)
        wide = frame.x(i + 0.85) - x
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{bottom - y:.1f}" rx="2" '
            f'style="fill:var(--c1)"><title>{escape(f"{name}: {show(value)}")}</title></rect>'
            f'<text x="{x + wide / 2:.1f}" y="{y - 4:.1f}" text-anchor="middle">'
            f"{escape(show(value))}</text>"
            f'<text x="{x + wide / 2:.1f}" y="{height - 9}" text-anchor="middle">'
            f"{escape(name)}</text>"
        )
    return svg(width, height, "".join(parts), label or "columns")


def empty_chart(width: int = 360, height: int = 190) -> str:
    """Return a picture that says that there is nothing to show yet."""
    text = (
        f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">nothing measured yet</text>'
    )
    return svg(width, height, text, "nothing measured yet")


# ------------------------------------------------------------ numbers


def finite(points: Points) -> list[tuple[float, float]]:
    """Return the points that can be drawn."""
    return [(x, y) for x, y in points if abs(x) < _HUGE and abs(y) < _HUGE]


def thin(points: Points, most: int = _MOST) -> list[tuple[float, float]]:
    """Return at most `most` points: means of neighbours, the first and the last as they are."""
    if len(points) <= most:
        return list(points)
    cuts = [round(1 + i * (len(points) - 2) / (most - 2)) for i in range(most - 1)]
    inner = [_centre(points[a:b]) for a, b in pairwise(cuts)]
    return [points[0], *inner, points[-1]]


def trend(points: Points) -> list[tuple[float, float]]:
    """Return the moving mean over about a tenth of the points."""
    reach = max(1, len(points) // 20)
    found = []
    for i, (x, _) in enumerate(points):
        found.append((x, _centre(points[max(0, i - reach) : i + reach + 1])[1]))
    return found


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round values that cover a range."""
    span = high - low
    if not 1e-200 < span < math.inf:
        return [low]
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    unit = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * 0.999)
    first = math.ceil(low / unit - 1e-9)
    count = math.floor(high / unit + 1e-9) - first + 1
    return [round((first + i) * unit, 12) for i in range(count)]


def _centre(points: Points) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _frame(points: Points, width: int, height: int, y_range: tuple[float, float] | None) -> Frame:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, x1 = min(xs), max(xs)
    if x1 <= x0:
        x0, x1 = x0 - 1, x1 + 1
    if y_range is None:
        low, high = min(ys), max(ys)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        y0 = 0.0 if low >= 0 and low < 0.5 * high else low - room
        y_range = (max(y0, 0.0) if low >= 0 else y0, high + room)
    return Frame(width, height, x0, x1, *y_range)


# ------------------------------------------------------------ parts of a picture


def _axes(frame: Frame, show: Format, x_name: str) -> str:
    parts = []
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM
    values = ticks(frame.y0, frame.y1)
    for value, text in zip(values, _told(values, show), strict=True):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    end = escape(f"{x_name} {frame.x1:.0f}" if frame.x1 == int(frame.x1) else x_name)
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{right}" y="{frame.height - 7}" text-anchor="end">{end}</text>'
    )
    room = right - 6 * len(end) - 20
    for value in ticks(frame.x0, frame.x1, 4 if frame.width < 500 else 8):
        x = frame.x(value)
        if value == int(value) and x < room:
            parts.append(
                f'<text x="{x:.1f}" y="{frame.height - 7}" text-anchor="middle">{value:.0f}</text>'
            )
    return "".join(parts)


def _told(values: Sequence[float], show: Format) -> list[str]:
    """Return the texts of ticks, with more digits where two would read alike."""
    texts = [show(value) for value in values]
    if len(set(texts)) == len(texts):
        return texts
    if texts[0].endswith("%"):
        return [f"{100 * value:.4g} %" for value in values]
    return [f"{value:.5g}" for value in values]


def _line(one: Series, frame: Frame) -> str:
    smooth = len(one.points) >= _TREND and not one.dots
    color = f"stroke:var(--c{one.color})"
    parts = []
    if smooth:
        parts.append(f'<path class="line raw" style="{color}" d="{_path(one.points, frame)}"/>')
    drawn = trend(one.points) if smooth else one.points
    if len(drawn) > 1:
        parts.append(f'<path class="line" style="{color}" d="{_path(drawn, frame)}"/>')
    if one.dots or len(drawn) == 1:
        parts += [
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.2" '
            f'style="fill:var(--c{one.color});stroke:var(--surface)" stroke-width="1.2"/>'
            for x, y in one.points
        ]
    return "".join(parts)


def _path(points: Points, frame: Frame) -> str:
    return "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)


def _hover(series: Sequence[Series], frame: Frame, show: Format, x_name: str) -> str:
    """Return one invisible column for each x, whose title tells the values there."""
    values: dict[float, list[str]] = {}
    for one in series:
        for x, y in one.points:
            values.setdefault(x, []).append(f"{one.name} {show(y)}")
    xs = sorted(values)
    half = (frame.x(xs[-1]) - frame.x(xs[0])) / max(1, len(xs) - 1) / 2 or 8.0
    parts = []
    top, tall = _TOP, frame.height - _TOP - _BOTTOM
    for x in xs:
        at = frame.x(x)
        text = escape(f"{x_name} {x:.0f}\n" + "\n".join(values[x]))
        parts.append(
            f'<g class="hover"><rect class="hit" x="{at - half:.1f}" y="{top}" '
            f'width="{2 * half:.1f}" height="{tall}"/><line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" '
            f'y2="{top + tall}"/><title>{text}</title></g>'
        )
    return "".join(parts)
