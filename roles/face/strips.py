"""Pictures of time: who was busy when, and with what. Pure functions from spans to SVG text.

Knows nothing of runs. Called by `figures.py`; colours as in `charts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from realnet.roles.face.canvas import svg
from realnet.roles.face.charts import ticks
from realnet.roles.face.overlap import Spans, clip
from realnet.roles.face.words import duration, percent

_ROW, _BAR, _TOP, _LEFT, _RIGHT, _FOOT = 30, 20, 8, 84, 10, 24
_FIXED = {"generate": 1, "train": 2}  # as the lanes of generator and trainer


class Lane(NamedTuple):
    """One row of a strip: merged spans under a name, in a colour (1 to 6)."""

    name: str
    spans: Spans
    color: int


def strip(
    lanes: Sequence[Lane],
    window: tuple[float, float],
    *,
    width: int,
    marks: Sequence[tuple[float, str]] = (),
    shade: tuple[float, float] | None = None,
) -> str:
    """Return busy spans over time. Where spans are finer than the picture, shade tells the share.

    `marks` are moments with a text; `shade` is a window that is set off.
    """
    start_s, end_s = window
    height = _TOP + _ROW * len(lanes) + _FOOT
    scale = (width - _LEFT - _RIGHT) / (end_s - start_s)
    parts = []
    if shade is not None:
        x0, x1 = (_LEFT + (min(max(s, start_s), end_s) - start_s) * scale for s in shade)
        parts.append(
            f'<rect x="{x0:.1f}" width="{max(0.0, x1 - x0):.1f}" y="2" height="{height - _FOOT}" '
            'style="fill:var(--grid)" opacity=".75" rx="3"/>'
        )
    for i, lane in enumerate(lanes):
        y = _TOP + i * _ROW
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(lane.name)}</text>'
        )
        parts.append(_lane(lane, window, y, scale))
    low, high = _TOP - 4, _TOP + _ROW * len(lanes) - 4
    for at_s, text in marks:
        if start_s <= at_s <= end_s:
            x = _LEFT + (at_s - start_s) * scale
            parts.append(
                f'<g><line x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{high}" '
                f'style="stroke:var(--ink)" stroke-dasharray="2 3" opacity=".7"/>'
                f"<title>{escape(text)}</title></g>"
            )
    parts.append(_time_axis(window, scale, height, width))
    names = ", ".join(lane.name for lane in lanes)
    return svg(width, height, "".join(parts), f"when {names} were busy")


def _lane(lane: Lane, window: tuple[float, float], y: int, scale: float) -> str:
    start_s, end_s = window
    spans = clip(lane.spans, start_s, end_s)
    pixels = (end_s - start_s) * scale
    parts = [
        f'<rect x="{_LEFT}" y="{y}" width="{pixels:.1f}" height="{_BAR}" rx="2" '
        'style="fill:none;stroke:var(--grid)"/>'
    ]
    if len(spans) <= pixels / 4:
        drawn = [(a, b, 1.0) for a, b in spans]
    else:
        drawn = _shares(spans, start_s, end_s, int(pixels / 2))
    for a, b, share in drawn:
        told = "busy" if share == 1.0 else f"{percent(share)} busy"
        text = escape(f"{lane.name} {told}, {a:.1f} to {b:.1f} s")
        parts.append(
            f'<rect x="{_LEFT + (a - start_s) * scale:.2f}" y="{y}" '
            f'width="{max(0.4, (b - a) * scale):.2f}" height="{_BAR}" '
            f'style="fill:var(--c{lane.color})" opacity="{0.12 + 0.88 * share:.2f}">'
            f"<title>{text}</title></rect>"
        )
    return "".join(parts)


def _shares(
    spans: Spans, start_s: float, end_s: float, count: int
) -> list[tuple[float, float, float]]:
    """Cut a window into bins; return (start, end, busy share) of those that are not idle."""
    size = (end_s - start_s) / count
    busy = [0.0] * count
    for a, b in spans:
        first = min(count - 1, int((a - start_s) / size))
        last = min(count - 1, int((b - start_s) / size))
        for i in range(first, last + 1):
            low = start_s + i * size
            busy[i] += max(0.0, min(b, low + size) - max(a, low))
    return [
        (start_s + i * size, start_s + (i + 1) * size, min(1.0, s / size))
        for i, s in enumerate(busy)
        if s > 0
    ]


def _time_axis(window: tuple[float, float], scale: float, height: int, width: int) -> str:
    start_s, end_s = window
    parts = []
    span = end_s - start_s
    unit, name = (60.0, "min") if span > 300 else (1.0, "s")
    if span > 4 * 3600:
        unit, name = 3600.0, "h"
    room = width - _RIGHT - 30
    for value in ticks(start_s / unit, end_s / unit, 5 if width < 500 else 8):
        x = _LEFT + (value * unit - start_s) * scale
        if x < room:
            text = f"{value:g}"
            parts.append(f'<text x="{x:.1f}" y="{height - 7}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{width - _RIGHT}" y="{height - 7}" text-anchor="end">{name}</text>')
    return "".join(parts)


def bars(
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, width: int, of_s: float
) -> str:
    """Return one bar for each row, cut into labelled seconds; full width is `of_s` seconds."""
    order = dict(bar_colors(rows))
    left, parts = 118, []
    scale = (width - left - 56) / max(of_s, 1e-9)
    for i, (name, pieces) in enumerate(rows):
        y, x = 4 + i * 26, float(left)
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        for label, seconds in pieces:
            text = escape(f"{name}: {label} {duration(seconds)}, {percent(seconds / of_s)}")
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(0.5, seconds * scale):.1f}" height="17" '
                f'style="fill:var(--c{order[label]});stroke:var(--surface)" stroke-width=".6">'
                f"<title>{text}</title></rect>"
            )
            x += seconds * scale
        total = sum(s for _, s in pieces)
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{percent(total / of_s)}</text>')
    return svg(width, 4 + 26 * len(rows), "".join(parts), "where the time of each role went")


def bar_colors(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> list[tuple[str, int]]:
    """Return (label, colour) of the pieces that `bars` draws, for a legend."""
    labels = list(dict.fromkeys(label for _, pieces in rows for label, _ in pieces))
    labels.sort(key=lambda label: label == "other")
    others = [label for label in labels if label not in _FIXED]
    return [(x, _FIXED[x] if x in _FIXED else 3 + others.index(x) % 4) for x in labels]
