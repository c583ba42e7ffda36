"""What every picture shares: its svg element, its colours, and how it stands alone in a file.

Colours are CSS variables (--c1 ... --c6, --ink, --muted, --grid, --surface), so that a page gives
them for light and dark; `standalone` writes a file that brings its own.

Knows nothing of what is drawn. Called by `charts.py`, `strips.py`, `figures.py` and the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

LIGHT = {
    "surface": "#ffffff",
    "ink": "#1c2024",
    "muted": "#667079",
    "grid": "#e4e7ea",
    "c1": "#2a6fdb",
    "c2": "#d9622b",
    "c3": "#16936a",
    "c4": "#8a5cd1",
    "c5": "#b7860b",
    "c6": "#c73e6b",
}
DARK = {
    "surface": "#15181c",
    "ink": "#e9ecef",
    "muted": "#98a2ab",
    "grid": "#2c3238",
    "c1": "#5b9bff",
    "c2": "#f08a55",
    "c3": "#3cc298",
    "c4": "#b08cf0",
    "c5": "#dcae3c",
    "c6": "#ee7099",
}
CHART_CSS = """
.chart { font: 11px system-ui, sans-serif; }
.chart text { fill: var(--muted); }
.chart .grid { stroke: var(--grid); stroke-width: 1; }
.chart .axis { stroke: var(--muted); stroke-width: 1; opacity: .6; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .raw { stroke-width: 1; opacity: .35; }
.chart .hit { fill: transparent; }
.chart .hover line { stroke: var(--muted); opacity: 0; }
.chart .hover:hover line { opacity: .8; }
"""


def svg(width: int, height: int, inside: str, label: str) -> str:
    """Return an svg element around drawn parts."""
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{inside}</svg>'
    )


def standalone(
    chart: str, title: str, width: int, height: int, legend: Sequence[tuple[str, int]] = ()
) -> str:
    """Return the text of an SVG file with its own colours (light, and dark where asked for)."""
    light = "".join(f"--{name}:{color};" for name, color in LIGHT.items())
    dark = "".join(f"--{name}:{color};" for name, color in DARK.items())
    css = (
        f"svg{{{light}}}@media (prefers-color-scheme: dark){{svg{{{dark}}}}}{CHART_CSS}"
        ".chart text.title{font:600 14px system-ui,sans-serif;fill:var(--ink)}"
    )
    names = "".join(
        f'<circle cx="21" cy="{43 + 18 * i}" r="5" style="fill:var(--c{color})"/>'
        f'<text x="32" y="{47 + 18 * i}">{escape(name)}</text>'
        for i, (name, color) in enumerate(legend)
    )
    above = 36 + 18 * len(legend)
    whole = height + above + 4
    inner = chart.replace(
        '<svg class="chart"', f'<svg class="chart" y="{above}" height="{height}"', 1
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{width}" height="{whole}" '
        f'viewBox="0 0 {width} {whole}"><style>{css}</style>'
        f'<rect width="{width}" height="{whole}" rx="8" style="fill:var(--surface)"/>'
        f'<text class="title" x="16" y="25">{escape(title)}</text>{names}{inner}</svg>\n'
    )
