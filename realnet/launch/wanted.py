"""Which hosts a run needs: how many, of which pools, and which are spares.

Decided without IO. Knows nothing of agents. Made by fleets; `hosts.py` gathers by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from realnet.topology.placement import Host, assigned_pools, spares_of_pools
from realnet.topology.plan import PoolPlan


class Wanted(NamedTuple):
    """The hosts that a run needs: how many, and of those that come beyond, how many are spares.

    `names` are those that ought to come, where they are known: who is missing is named. `pools`
    says how many each pool needs, where hosts come with their pool.
    """

    num_hosts: int
    num_spares: int = 0
    names: tuple[str, ...] = ()
    pools: Mapping[str, int] = MappingProxyType({})

    def lacks(self, hosts: Sequence[Host]) -> str:
        """Return what is missing among the hosts that are fit; "" if they are enough."""
        come = Counter(h.pool for h in hosts)
        for pool, num in self.pools.items():
            if come[pool] < num:
                return f"{come[pool]} of the {num} hosts that pool {pool} needs"
        if len(hosts) < self.num_hosts:
            return f"{len(hosts)} of the {self.num_hosts} hosts that this run needs"
        return ""

    def shared_out(self, hosts: Sequence[Host], pools: Mapping[str, PoolPlan]) -> list[Host]:
        """Return the hosts with their pools, and those that are not needed now as spares."""
        if self.pools:
            return spares_of_pools(hosts, self.pools)
        return assigned_pools(hosts, pools, len(hosts) - self.num_hosts)
