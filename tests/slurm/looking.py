"""A role that says what its process was given, and then waits."""

from __future__ import annotations

import os
import platform

from realnet import Actor, Config


class Looker(Actor[Config]):
    async def run(self) -> None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "nothing")
        meet = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        self.event(f"{self.address} on {platform.node()} sees [{given}] and meets at {meet}")
