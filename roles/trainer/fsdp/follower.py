"""A rank that follows: it makes the moves that the leader orders, one after the other.

A move that fails fails this rank's actor, and so the whole gang: the others stand in the middle of
the same move and wait. Writing a checkpoint is the exception: it goes on beside the training, and a
full disk is told to the leader.

Knows orders and its shard, nothing of tickets. Made by the trainer of every rank but the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from realnet.errors import RealnetError
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.fsdp import meeting
from realnet.roles.trainer.fsdp.records import Order, Report
from realnet.roles.trainer.fsdp.shard import Shard
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.outgoing import What


class Surroundings(Protocol):
    """What following needs of its actor."""

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def progress(self, text: str) -> None: ...


class Follower:
    """One rank's shard, moved by orders."""

    def __init__(
        self,
        actor: Surroundings,
        policy: Policy,
        config: LearnerConfig,
        base: Path,
        rank: int,
        ranks: int,
    ) -> None:
        self._actor = actor
        self._about = (policy, config, base, rank, ranks)
        self._shard: Shard | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def until_failed(self) -> None:
        """Wait until a move fails; raises what it raised."""
        await self._failed

    async def make(self, order: Order) -> Report:
        """Make a move and report."""
        try:
            if order.move == "write":
                return await asyncio.to_thread(self._write, order)
            report: Report = await self._actor.compute(self._moved, order, label=order.move)
            return report
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)
            raise

    def _write(self, order: Order) -> Report:
        try:
            return Report(files=self._known().write(Path(order.folder)))
        except OSError as error:
            return Report(error=str(error))

    def _moved(self, order: Order) -> Report:
        if order.move == "meet":
            policy, config, base, rank, ranks = self._about
            tokenizer = load_tokenizer(policy, base)
            self._shard = Shard(policy, config, tokenizer, base, rank, ranks)
            self._shard.meet(meeting.join_store(order.host, order.port, ranks))
            return Report()
        return obey(self._known(), order)

    def _known(self) -> Shard:
        if self._shard is None:
            raise RealnetError("this rank was told to move before it met the others")
        return self._shard


def obey(shard: Shard, order: Order) -> Report:
    """Make a move of all ranks but `meet` and `write`; blocks until the others have made it."""
    match order.move:
        case "spread":
            shard.spread()
        case "refer":
            shard.refer()
        case "score":
            scored = shard.score(
                order.parts, reference=order.reference, temperature=order.temperature
            )
            return Report(logp=tuple(scored))
        case "mark":
            shard.mark(order.updates)
        case "update":
            return shard.update(order.parts, order.lr)
        case "put_back":
            shard.put_back()
        case "gather":
            shard.gather()
        case "read":
            shard.read(Path(order.folder))
        case "stage":
            shard.stage(Path(order.folder), base=order.base)
        case "publish":
            assert order.version is not None
            assert order.opened is not None
            what: What = "base" if order.base else "version"
            return shard.outgoing.write(order.version, order.opened, what)
        case "sum_up":
            return Report(digest=shard.outgoing.sum_up_base())
        case _:
            raise RealnetError(f"{order.move!r} is no move of a rank that has met the others")
    return Report()
