"""The graph as a self-contained SVG file: roles in columns, each wire with a track of its own.

Between two columns lies a gap: first the labels of what leaves the left column, each on its own
line, then the lanes in which wires go up and down. A wire to the next column goes straight through
its lane; any other goes below all boxes, on a track of its own. So no two lines run on top of each
other and no line crosses a label.

Knows nothing of plans. Called by the command line.
"""

from __future__ import annotations

import itertools
from html import escape
from typing import NamedTuple

from realnet.topology.draw.graph import Box, Edge, Graph

CHAR = 6.65  # width of a character at 11 px in a monospaced face
PITCH = 20  # from one line that leaves a box to the next; what arrives lies halfway between
HEAD = 40  # of a box, above its lines
LANE = 11
MARGIN = 24
SPACE = 26  # between boxes of a column
COLOUR = {"share": "#1f5fbf", "ask": "#b4531f", "state": "#4d7c32"}
DASH = {"share": "", "ask": ' stroke-dasharray="7 3"', "state": ' stroke-dasharray="2 3"'}
SAYS = {"share": "hands over work", "ask": "asks", "state": "shows its latest value"}


class _Place(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def svg(graph: Graph) -> str:
    """Return the text of an SVG file."""
    return _Drawing(graph).text()


class _Drawing:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.columns = _columns(graph)
        self.column = {b.name: i for i, col in enumerate(self.columns) for b in col}
        self.out = {b.name: [e for e in graph.edges if e.source == b.name] for b in graph.boxes}
        self.into = {b.name: [e for e in graph.edges if e.target == b.name] for b in graph.boxes}
        self.lane: dict[tuple[int, Edge], int] = {}
        self.lanes = [0] * (len(self.columns) + 1)
        self._take_lanes()
        self.place: dict[str, _Place] = {}
        self._lay_out()

    def _is_straight(self, edge: Edge) -> bool:
        return self.column[edge.target] == self.column[edge.source] + 1

    def _take_lanes(self) -> None:
        """Give each edge a lane in the gap it starts into, and in the one it arrives from."""
        for edge in self.graph.edges:
            gaps = [self.column[edge.source] + 1]
            if not self._is_straight(edge):
                gaps.append(self.column[edge.target])
            for gap in gaps:
                self.lane[gap, edge] = self.lanes[gap]
                self.lanes[gap] += 1

    def _lay_out(self) -> None:
        x = float(MARGIN)
        self.lanes_at: list[float] = []  # x of the first lane of each gap
        bottom = 0.0
        for index, column in enumerate([[], *self.columns]):
            if column:
                width = max(_box_width(b) for b in column)
                y = float(MARGIN + 34)
                for box in column:
                    lines = max(len(self.out[box.name]), len(self.into[box.name]), 0)
                    height = HEAD + PITCH * lines + 4
                    self.place[box.name] = _Place(x, y, width, height)
                    y += height + SPACE
                    y += -(y - MARGIN - 34) % PITCH  # lines of all columns on one grid
                bottom = max(bottom, y - SPACE)
                x += width
                labels = [len(_label(e)) for b in column for e in self.out[b.name]]
                x += max(labels, default=0) * CHAR + 16
            self.lanes_at.append(x + LANE)
            x += LANE * (self.lanes[index] + 2)
        self.width = x + MARGIN
        below = [e for e in self.graph.edges if not self._is_straight(e)]
        self.track = {e: bottom + 14 + 9 * i for i, e in enumerate(below)}
        self.height = bottom + 14 + 9 * len(below) + MARGIN + 22

    def _way(self, edge: Edge) -> list[tuple[float, float]]:
        """Return the corners of an edge."""
        a, b = self.place[edge.source], self.place[edge.target]
        y0 = a.y + HEAD + PITCH * self.out[edge.source].index(edge)
        y1 = b.y + HEAD + PITCH * (self.into[edge.target].index(edge) + 0.5)
        gap = self.column[edge.source] + 1
        x0 = self.lanes_at[gap] + LANE * self.lane[gap, edge]
        if self._is_straight(edge):
            return [(a.x + a.width, y0), (x0, y0), (x0, y1), (b.x, y1)]
        last = self.column[edge.target]
        x1 = self.lanes_at[last] + LANE * self.lane[last, edge]
        track = self.track[edge]
        return [(a.x + a.width, y0), (x0, y0), (x0, track), (x1, track), (x1, y1), (b.x, y1)]

    def text(self) -> str:
        """Return the file."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" '
            f'height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            "font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\">",
            f"<title>{escape(self.graph.title)}</title>",
            f'<rect width="{self.width:.0f}" height="{self.height:.0f}" fill="#ffffff"/>',
            f'<text x="{MARGIN}" y="{MARGIN + 8}" font-size="15" font-weight="bold" '
            f'fill="#222222">{escape(self.graph.title)}</text>',
            "<defs>",
        ]
        parts += [
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{colour}"/></marker>'
            for kind, colour in COLOUR.items()
        ]
        parts.append("</defs>")
        parts += [self._line(edge) for edge in self.graph.edges]
        parts += [self._box(box) for box in self.graph.boxes]
        parts += [self._edge_label(edge) for edge in self.graph.edges]
        parts.append(self._legend())
        parts.append("</svg>")
        return "\n".join(parts) + "\n"

    def _line(self, edge: Edge) -> str:
        colour = COLOUR[edge.kind]
        return (
            f'<path d="{_rounded(self._way(edge))}" fill="none" stroke="{colour}" '
            f'stroke-width="1.5"{DASH[edge.kind]} marker-end="url(#{edge.kind})"/>'
        )

    def _box(self, box: Box) -> str:
        p = self.place[box.name]
        note = (
            f'<text x="{p.x + 12:.1f}" y="{p.y + 33:.1f}" font-size="11" fill="#666666">'
            f"{escape(box.note)}</text>"
            if box.note
            else ""
        )
        return (
            f'<rect x="{p.x:.1f}" y="{p.y:.1f}" width="{p.width:.1f}" height="{p.height:.1f}" '
            'rx="6" fill="#f4f6f9" stroke="#444444"/>'
            f'<text x="{p.x + 12:.1f}" y="{p.y + 18:.1f}" font-size="13" font-weight="bold" '
            f'fill="#222222">{escape(box.name)}</text>{note}'
        )

    def _edge_label(self, edge: Edge) -> str:
        x, y = self._way(edge)[0]
        return (
            f'<text x="{x + 7:.1f}" y="{y - 4:.1f}" font-size="11" fill="{COLOUR[edge.kind]}">'
            f"{escape(_label(edge))}</text>"
        )

    def _legend(self) -> str:
        parts, x, y = [], float(MARGIN), self.height - MARGIN + 6
        for kind in dict.fromkeys(e.kind for e in self.graph.edges):
            parts.append(
                f'<path d="M{x:.1f},{y - 4:.1f} h26" stroke="{COLOUR[kind]}" stroke-width="1.5"'
                f'{DASH[kind]} marker-end="url(#{kind})"/><text x="{x + 34:.1f}" y="{y:.1f}" '
                f'font-size="11" fill="#444444">{SAYS[kind]}</text>'
            )
            x += 34 + len(SAYS[kind]) * CHAR + 24
        self.width = max(self.width, x)
        return "\n".join(parts)


def _columns(graph: Graph) -> list[list[Box]]:
    """Return the boxes column by column; in each, those with early neighbours first."""
    columns: list[list[Box]] = []
    at: dict[str, float] = {}
    for index in sorted({b.column for b in graph.boxes}):
        column = [b for b in graph.boxes if b.column == index]
        before = {
            b.name: [at[e.source] for e in graph.edges if e.target == b.name and e.source in at]
            for b in column
        }
        column.sort(
            key=lambda b: sum(before[b.name]) / len(before[b.name]) if before[b.name] else 0
        )
        at.update({b.name: i for i, b in enumerate(column)})
        columns.append(column)
    return columns


def _label(edge: Edge) -> str:
    return edge.label + ("?" if edge.kind == "ask" else "")


def _box_width(box: Box) -> float:
    return max(96.0, len(box.name) * 8.1 + 24, len(box.note) * CHAR + 24)


def _rounded(corners: list[tuple[float, float]], radius: float = 5.0) -> str:
    """Return the path through the corners, each of them rounded."""
    (x, y), *rest = corners
    path = [f"M{x:.1f},{y:.1f}"]
    for (cx, cy), (nx, ny) in itertools.pairwise(rest):
        px, py = _toward(cx, cy, x, y, radius)
        qx, qy = _toward(cx, cy, nx, ny, radius)
        path.append(f"L{px:.1f},{py:.1f} Q{cx:.1f},{cy:.1f} {qx:.1f},{qy:.1f}")
        x, y = cx, cy
    path.append(f"L{rest[-1][0]:.1f},{rest[-1][1]:.1f}")
    return " ".join(path)


def _toward(cx: float, cy: float, x: float, y: float, radius: float) -> tuple[float, float]:
    """Return the point at most `radius`, and at most half way, from a corner toward the next."""
    length = abs(x - cx) + abs(y - cy)
    part = min(radius, length / 2) / length if length else 0.0
    return cx + (x - cx) * part, cy + (y - cy) * part
