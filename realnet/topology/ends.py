"""The ends of a role class as plain data: what can be wired to it, without its code.

The plan keeps them for guests, who come with code of their own and must fit. Knows nothing of
topology files. Called by `resolve.py` and by `guest/`.
"""

from __future__ import annotations

from typing import Any

from realnet.actor import Actor
from realnet.message import Request, StreamRequest, reply_type
from realnet.ports import declared_handlers, declared_ports
from realnet.schema import schema_hash
from realnet.topology.plan import EndsPlan


def plain_ends(cls: type[Actor[Any]]) -> EndsPlan:
    """Return the ends of a role class."""
    ports, handled = declared_ports(cls), declared_handlers(cls)
    kinds = [*(t for port in ports.values() for t in port.types), *handled]
    kinds += [reply_type(t) for t in kinds if issubclass(t, Request | StreamRequest)]
    return EndsPlan(
        {n: (type(p).__name__, tuple(t.__name__ for t in p.types)) for n, p in ports.items()},
        tuple(t.__name__ for t in handled),
        {t.__name__: schema_hash(t) for t in kinds},
    )
