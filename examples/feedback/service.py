"""A service whose answers a run's model writes, and whose users' thumbs that model learns from.

    realnet grant feedback --as shop
    REALNET_KEY=shop.key uvicorn service:app

It only dials out: nobody needs to be able to reach it, and it needs no file of the run but its key.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import realnet
from realnet.roles.client import Client
from realnet.roles.driver.episode import Episode
from realnet.roles.tasks import CannotAsk

shown: dict[str, list[Episode]] = {}  # what waits for a thumb


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Be a guest of the run while the service lives."""
    async with realnet.Node(key=os.environ["REALNET_KEY"]) as node:
        app.state.client = Client(node)
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(realnet.RealnetError)
async def no_model(request: Request, error: realnet.RealnetError) -> JSONResponse:
    """Say so when the run has ended, or nobody answers in time."""
    return JSONResponse({"detail": str(error)}, status_code=503)


@app.exception_handler(CannotAsk)
async def no_prompt(request: Request, error: CannotAsk) -> JSONResponse:
    """Say what is wrong with a prompt that the model cannot read."""
    return JSONResponse({"detail": str(error)}, status_code=400)


class Thumbs(BaseModel):
    """What somebody thought of each answer: 1 for good, 0 for bad."""

    rewards: list[float]


@app.post("/ask")
async def ask(prompt: str) -> dict[str, object]:
    """Show two answers to a prompt."""
    episodes = [app.state.client.begin(prompt) for _ in range(2)]
    answers = await asyncio.gather(*(episode.write() for episode in episodes))
    name = uuid.uuid4().hex
    shown[name] = episodes
    return {"name": name, "answers": answers}


@app.post("/thumbs/{name}")
async def thumbs(name: str, given: Thumbs) -> dict[str, str]:
    """Have the answers trained on, and say under which ticket."""
    episodes = shown.pop(name, None)
    if episodes is None or len(given.rewards) != len(episodes):
        raise HTTPException(404, "there are no such answers")
    group = list(zip(episodes, given.rewards, strict=True))
    collected = await app.state.client.give_back(name, group)
    return {"ticket": str(collected.ticket)}
