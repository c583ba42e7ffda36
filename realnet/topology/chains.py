"""How a wire is written: a chain of roles, alone or in a table with options.

Knows the spelling, and what people write instead; nothing of roles or ports. Called by `wiring.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from realnet.config import Config, Seconds, doc, read_table
from realnet.errors import ConfigError


class WireTable(Config):
    """A wire with options: `llm = { path = "agent -> generator", deadline = "2min" }`."""

    path: Annotated[str, doc('the chain of roles, "a -> b -> c"; "role.port" where ambiguous')]
    feedback: Annotated[
        int, doc("closes a circle of share wires; messages of room kept for it", ge=0)
    ] = 0
    affinity: Annotated[str, doc("field of the message; equal values go to one member")] = ""
    deadline: Annotated[Seconds, doc("time budget of a request that names none; 0: none")] = (
        Seconds(0)
    )


def read_wire(written: Any, where: str) -> WireTable:
    """Return what is written for a wire: a chain, or a table with options. Raises ConfigError."""
    if isinstance(written, str):
        return WireTable(path=written)
    if isinstance(written, Mapping):
        return read_table(WireTable, written, where)
    raise ConfigError(
        f'{where} must be a chain such as "a -> b -> c", or '
        f'{{ path = "a -> b", deadline = "2min" }}, not {written!r}'
    )


def stops_of(path: str, where: str) -> list[str]:
    """Return the roles of a chain. Raises ConfigError for what is not quite one."""
    arrow = re.search(r"[-=~]{2,}>+|=>|->>+|<[-=]+|→|⇒|(?<!-)>", path)
    if arrow is not None:
        meant = re.sub(r"\s*(?:[-=~]+>+|→|⇒|>)\s*", " -> ", path)
        back = "; the end that gives stands on the left" if "<" in arrow[0] else ""
        fix = "" if back else f': "{meant}"'
        raise ConfigError(f'{where} = "{path}": the arrow is written ->, not {arrow[0]}{fix}{back}')
    stops = [stop.strip() for stop in path.split("->")]
    if len(stops) < 2:
        raise ConfigError(
            f'{where} = "{path}": a chain needs at least two roles, "a -> b"; to take a wire out '
            "write false"
        )
    if not all(stops):
        raise ConfigError(f'{where} = "{path}": a role is missing beside an arrow')
    for stop in stops:
        if not re.fullmatch(r"[\w-]+(?:\.\w+)?", stop):
            raise ConfigError(
                f'{where} = "{path}": "{stop}" is no end of a wire: write role, or role.port'
            )
    return stops
