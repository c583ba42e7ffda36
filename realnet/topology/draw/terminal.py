"""The graph for a terminal: one box under the other in the order of the work, wires as rails on
the right, each with a label of its own. No two rails share a place, so any graph can be read.

Knows nothing of plans. Called by the command line.
"""

from __future__ import annotations

from typing import NamedTuple

from realnet.topology.draw.graph import Edge, Graph

_FLAT = {"share": "─", "ask": "┄", "state": "╌"}
_UP = {"share": "│", "ask": "┆", "state": "╎"}
_OF = {"share": "hands over", "ask": "asks", "state": "shows"}
STEP = 2  # columns from one rail to the next


class _Rail(NamedTuple):
    edge: Edge
    start: int
    end: int
    lane: int


def terminal(graph: Graph) -> str:
    """Return the picture as lines of text."""
    width = max(len(f"{b.name}  {b.note}".rstrip()) for b in graph.boxes) + 4
    rows, ports = _rows(graph, width)
    rails = _rails(graph, ports)
    reach = width + 2 + STEP * (1 + max((r.lane for r in rails), default=0)) + 1
    grid = [list(row.ljust(reach)) for row in rows]
    for rail in sorted(rails, key=lambda r: -(r.end - r.start)):
        _draw(grid, rail, width)
    lines = ["".join(row).rstrip() for row in grid]
    for rail in rails:
        at = ports["out", rail.edge]
        text = f"{_OF[rail.edge.kind]} {rail.edge.label} → {rail.edge.target}"
        lines[at] = f"{lines[at].ljust(reach)}  {text}"
    return "\n".join(lines) + "\n"


def _rows(graph: Graph, width: int) -> tuple[list[str], dict[tuple[str, Edge], int]]:
    """Return the boxes as lines, and the line at which each edge leaves and arrives."""
    rows: list[str] = []
    ports: dict[tuple[str, Edge], int] = {}
    for box in graph.boxes:
        mine = [("in", e) for e in graph.edges if e.target == box.name]
        mine += [("out", e) for e in graph.edges if e.source == box.name]
        rows.append(f"╭{'─' * (width - 2)}╮")
        for i in range(max(1, len(mine))):
            text = f"{box.name}  {box.note}".rstrip() if i == 0 else ""
            edge_char = "│"
            if i < len(mine):
                ports[mine[i]] = len(rows)
                edge_char = "├" if mine[i][0] == "out" else "│"
            rows.append(f"│ {text.ljust(width - 4)} {edge_char}")
        rows.append(f"╰{'─' * (width - 2)}╯")
    return rows, ports


def _rails(graph: Graph, ports: dict[tuple[str, Edge], int]) -> list[_Rail]:
    """Give each edge the leftmost lane in which it meets no other; short ones first."""
    spans = [(ports["out", e], ports["in", e], e) for e in graph.edges]
    taken: list[list[tuple[int, int]]] = []
    rails = []
    for start, end, edge in sorted(spans, key=lambda s: abs(s[0] - s[1])):
        low, high = min(start, end), max(start, end)
        lane = next(
            (i for i, others in enumerate(taken) if all(high < a or low > b for a, b in others)),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        rails.append(_Rail(edge, start, end, lane))
    order = {edge: i for i, edge in enumerate(graph.edges)}
    return sorted(rails, key=lambda r: order[r.edge])


def _draw(grid: list[list[str]], rail: _Rail, width: int) -> None:
    flat, up = _FLAT[rail.edge.kind], _UP[rail.edge.kind]
    x = width + 1 + STEP * (rail.lane + 1)
    low, high = min(rail.start, rail.end), max(rail.start, rail.end)
    for y in range(low + 1, high):
        grid[y][x] = "┼" if grid[y][x] in "─┄╌" else up
    for y in (rail.start, rail.end):
        for at in range(width, x):
            grid[y][at] = "┼" if grid[y][at] in "│┆╎" else flat
    grid[rail.end][width] = "◀"
    grid[low][x], grid[high][x] = "╮", "╯"
