"""The graph as Mermaid text, which GitHub, GitLab and many editors draw.

Knows nothing of plans. Called by the command line.
"""

from __future__ import annotations

import re

from realnet.topology.draw.graph import Graph

_ARROW = {"share": "==>", "ask": "-->", "state": "-.->"}


def mermaid(graph: Graph) -> str:
    """Return the text of a flowchart."""
    lines = ["flowchart LR"]
    for box in graph.boxes:
        note = f"<br/><small>{_escaped(box.note)}</small>" if box.note else ""
        lines.append(f'    {_id(box.name)}["{_escaped(box.name)}{note}"]')
    for edge in graph.edges:
        label = _escaped(edge.label) + (" ?" if edge.kind == "ask" else "")
        arrow = _ARROW[edge.kind]
        lines.append(f'    {_id(edge.source)} {arrow}|"{label}"| {_id(edge.target)}')
    return "\n".join(lines) + "\n"


def _id(name: str) -> str:
    return "r_" + re.sub(r"\W", "_", name)


def _escaped(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;")
