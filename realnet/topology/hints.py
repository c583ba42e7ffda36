"""Guesses at what the writer of a topology forgot.

Knows the names in the topologies that ship with realnet, not what they mean. Called by
`resolve.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

from realnet.topology.source import Source, all_shipped, shipped


def forgotten(source: Source) -> str:
    """Return " Is extends = "rl" missing?" when a file that extends nothing looks like a part of
    a topology that ships with realnet, or ''.
    """
    if source.extended:
        return ""
    roles = set(source.tables.get("roles", {}))
    tables = {t for t in ("policy", "tasks") if t in source.tables}
    for name in all_shipped():
        known = _roles_of(name)
        if known and (roles < known if roles else tables):
            return f' Is extends = "{name}" missing at its top?'
    return ""


def hinted(complaints: Sequence[str], source: Source) -> list[str]:
    """Return the complaints of the wires; of a role that is not there, who has one of that name."""
    if source.extended:
        return list(complaints)
    found = []
    for complaint in complaints:
        match = re.search(r'"([\w-]+)" is no role of this topology\.', complaint)
        if match and "Did you mean" not in complaint:
            for name in all_shipped():
                if match[1] in _roles_of(name):
                    complaint += f'. "{name}" has it: is extends = "{name}" missing?'
                    break
        found.append(complaint)
    return found


def _roles_of(name: str) -> set[str]:
    """Return the roles of a basic topology that ships with realnet: one that extends nothing."""
    path = shipped(name)
    tables = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    return set() if "extends" in tables else set(tables.get("roles", {}))
