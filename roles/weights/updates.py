"""The sender's side of collective updates: a barrier over ZeroMQ, then a broadcast in a thread.

`Updates` keeps the group that `membership.py` decides on. One ask of each member (`JoinUpdate`) is
all that an update takes; who did not come is named. It never waits for anybody longer than its
patience, and a failed update costs a version nothing: it can be had by the other links.

Knows asyncio and membership; torch only through `collective.py`, which is imported when the first
member comes. Called by the parameter server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from realnet.errors import RealnetError
from realnet.roles.messages import Held, JoinUpdate, Turn, UpdateEnded
from realnet.roles.weights.digests import WeightsGone
from realnet.roles.weights.membership import Go, Membership, Outcome
from realnet.roles.weights.reader import WeightReader

if TYPE_CHECKING:
    from realnet.actor import Clock
    from realnet.roles.weights.collective import Backend, Group, Store

COLLECTIVE: tuple[Backend, ...] = ("gloo", "nccl")


class Surroundings(Protocol):
    """What the sender needs of its actor."""

    clock: Clock

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]: ...
    def event(self, text: str, **fields: Any) -> None: ...
    def metrics(self, *, step: int | None = None, **values: float) -> None: ...


class Updates:
    """The collective updates of one sender. Times in seconds."""

    def __init__(
        self,
        actor: Surroundings,
        backend: Backend,
        *,
        host: str = "127.0.0.1",
        patience_s: float = 5.0,
        timeout_s: float = 30.0,
        watch: Callable[[str], Any] | None = None,
    ) -> None:
        self.link = backend
        self._actor = actor
        self._backend: Backend = backend
        self._host = host
        self._timeout_s = float(timeout_s)
        self._members = Membership(patience_s)
        self._watch = watch
        self._watched: set[str] = set()
        self._held: Held | None = None
        self._turns: dict[str, asyncio.Future[Turn]] = {}
        self._all_ended = asyncio.Event()
        self._news = asyncio.Event()  # somebody came to the barrier, or left it
        self._barrier: asyncio.Task[Any] | None = None
        self._group: Group | None = None
        self._store: Store | None = None

    def offer(self, held: Held) -> None:
        """A new version can be had by a collective; who waits for an older one is sent away."""
        self._held = held
        for name in self._members.offer(held.manifest.version):
            self._answer(name, Turn(0, 0, 0, why=f"{held.manifest.version} is out already"))

    async def join(self, request: JoinUpdate) -> Turn:
        """Wait at the barrier; return this member's place."""
        name = request.member
        why = self._members.ready(name, request.version, self._actor.clock.now())
        if self._watch is not None and name not in self._watched:
            self._watched.add(name)
            self._actor.spawn(self._mourn(name), name=f"watch {name}")
        self._news.set()
        if why:
            return Turn(0, 0, 0, why=why)
        turn = self._turns.get(name)
        if turn is None or turn.done():
            turn = self._turns[name] = asyncio.get_running_loop().create_future()
        if self._barrier is None or self._barrier.done():
            self._barrier = self._actor.spawn(self._stand(), name="barrier")
        try:
            return await asyncio.shield(turn)
        except asyncio.CancelledError:
            self._members.gone(name)
            self._news.set()
            raise

    def ended(self, request: UpdateEnded) -> None:
        """A member says how it ended."""
        if self._members.ended(request.member, request.epoch, request.error):
            self._all_ended.set()

    async def close(self) -> None:
        """Drop the group."""
        if self._group is not None:
            group, self._group = self._group, None
            await asyncio.to_thread(group.close)

    # ------------------------------------------------------------ one update

    async def _stand(self) -> None:
        """Stand at the barrier until it opens, and send; again if some wait for the next."""
        clock = self._actor.clock
        store = await asyncio.to_thread(self._have_store)
        while (due_s := self._members.due_s) is not None:
            self._news.clear()
            going = self._members.go(clock.now())
            if going is not None:
                await self._update(going, store)
                continue
            try:
                async with asyncio.timeout(max(due_s - clock.now(), 0.0)):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _update(self, going: Go, store: Store) -> None:
        self._all_ended.clear()
        if going.missing:
            self._actor.event(
                f"{going.version} goes out by {self.link} without {', '.join(going.missing)}: not "
                "ready in time; they can have it by another link"
            )
        start_s, held, failure = self._actor.clock.now(), self._held, ""
        place = (store.host, store.port)
        for rank, name in enumerate(going.ranks, start=1):
            size = 1 + len(going.ranks)
            self._answer(name, Turn(going.epoch, rank, size, place, self._timeout_s))
        try:
            if held is None or held.manifest.version != going.version:
                raise WeightsGone(f"{going.version} is not the newest any more")
            await asyncio.to_thread(self._send, going, held)
        except (RealnetError, RuntimeError) as error:
            failure = str(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._all_ended.wait()
        outcome = self._members.close(failure)
        if outcome is not None:
            await self._told(outcome, failure, self._actor.clock.now() - start_s)

    async def _told(self, outcome: Outcome, error: str, took_s: float) -> None:
        if error or outcome.failed or outcome.silent:
            failed = "".join(f"; {name}: {text}" for name, text in outcome.failed)
            silent = f"; no word from {', '.join(outcome.silent)}" if outcome.silent else ""
            self._actor.event(
                f"{outcome.version} by {self.link} failed (epoch {outcome.epoch}, {took_s:.1f} s): "
                f"{error or 'not for the sender'}{failed}{silent}. The group is built again"
            )
            await self.close()
        else:
            self._actor.metrics(collective_s=took_s, epoch=outcome.epoch, members=len(outcome.good))

    def _have_store(self) -> Store:
        from realnet.roles.weights.collective import Store

        if self._store is None:
            self._store = Store(self._host)
        return self._store

    def _send(self, going: Go, held: Held) -> None:
        """In a thread: build the group if it is another one, and broadcast under a lease."""
        from realnet.roles.weights.collective import Group

        size = 1 + len(going.ranks)
        if self._group is None or self._group.epoch != going.epoch:
            if self._group is not None:
                self._group.close()
                self._group = None
            self._group = Group(
                *(self._backend, self._have_store().store, going.epoch, 0, size),
                timeout_s=self._timeout_s,
                host=self._host,
            )
        reader = WeightReader()
        try:
            with reader.mapped(held) as view:
                self._group.send(held.manifest, view)
        finally:
            reader.close()

    # ------------------------------------------------------------ members

    def _answer(self, name: str, turn: Turn) -> None:
        waiting = self._turns.pop(name, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(turn)

    async def _mourn(self, name: str) -> None:
        """A member that died is not waited for."""
        assert self._watch is not None
        await self._watch(name)
        self._watched.discard(name)
        self._members.gone(name)
        self._news.set()
