"""The graph of a plan as a picture: for a terminal, as Mermaid text, as an SVG file.

Knows plans, nothing of how they are made. Called by the command line.
"""

from realnet.topology.draw.graph import Box, Edge, Graph, graph_of
from realnet.topology.draw.mermaid import mermaid
from realnet.topology.draw.svg import svg
from realnet.topology.draw.terminal import terminal

__all__ = ["Box", "Edge", "Graph", "graph_of", "mermaid", "svg", "terminal"]
