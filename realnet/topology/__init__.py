"""From a topology file to a plan: read and merge, find the roles, wire them, check everything.

Knows nothing of reinforcement learning, processes or sockets. Every complaint names file, table
and key. Called by the command line; a node reads only the finished plan.
"""

from realnet.topology.plan import (
    Plan,
    PoolPlan,
    RolePlan,
    SlotPlan,
    WirePlan,
    read_plan,
    write_plan,
)
from realnet.topology.resolve import resolve
from realnet.topology.source import Source, read_source

__all__ = [
    "Plan",
    "PoolPlan",
    "RolePlan",
    "SlotPlan",
    "Source",
    "WirePlan",
    "read_plan",
    "read_source",
    "resolve",
    "write_plan",
]
