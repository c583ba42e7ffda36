"""Roles that say what their processes were given, and then wait; one that fails."""

from __future__ import annotations

import os
import platform

from realnet import Actor, Config


class Looker(Actor[Config]):
    async def run(self) -> None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "nothing")
        meet = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        cores = len(os.sched_getaffinity(0))
        self.event(
            f"{self.address} on {platform.node()} sees [{given}] and {cores} cores, runs "
            f"{os.environ['OMP_NUM_THREADS']} threads and meets at {meet}"
        )


class Failing(Actor[Config]):
    async def run(self) -> None:
        print("the last that it did")
        raise RuntimeError("no such luck")
