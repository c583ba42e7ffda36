"""The example's web service with a switch: the rewarder comes and goes while requests go on.

Knows nothing of how it is measured. Started by `embed.py`, in the example's folder.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from service import app, lend, lending, state  # examples/service/service.py

_lent: list[asyncio.Task[None]] = []


@app.post("/switch/{on}")
async def switch(on: bool) -> dict[str, Any]:
    """Host the rewarder, or host it no more; reply when that is so."""
    if on:
        os.environ["REALNET_RUN"] = os.environ["EMBED_RUN"]
        _lent.append(asyncio.create_task(lend()))
        while state["rewarder"] is None and not _lent[0].done():
            await asyncio.sleep(0.01)
    elif _lent:
        task = _lent.pop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        state["rewarder"] = None
    return await lending()
