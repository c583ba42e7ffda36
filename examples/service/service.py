"""A web service that lends a hand to a run: it hosts a rewarder in its own loop.

    REALNET_RUN=runs/service uvicorn service:app

Neither needs the other to live: the service starts and answers whether the run is there or not, and
what the rewarder held when the service ends goes to another one.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

import realnet

state: dict[str, Any] = {"doing": "no run yet", "rewarder": None}


async def lend() -> None:
    """Host a rewarder for as long as the run goes on; wait for a run that is not there yet."""
    run = os.environ.get("REALNET_RUN", "")
    while run:
        try:
            async with realnet.Node(run, name="service") as node:
                state["rewarder"] = await node.serve("rewarder")
                state["doing"] = f"hosts {state['rewarder'].address}"
                state["doing"] = await node.wait()
                return
        except realnet.RealnetError as error:
            state["doing"] = str(error)
            await asyncio.sleep(2)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Lend while the service lives."""
    task = asyncio.create_task(lend())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


app = FastAPI(lifespan=lifespan)


@app.get("/hello/{name}")
async def hello(name: str) -> dict[str, str]:
    """Do what this service is for."""
    return {"hello": name}


@app.get("/lending")
async def lending() -> dict[str, Any]:
    """Tell what the rewarder has done."""
    rewarder = state["rewarder"]
    return {"doing": state["doing"], "judged": rewarder.rollouts.done if rewarder else 0}
