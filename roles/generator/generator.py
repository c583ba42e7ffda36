"""The generator: answers `Generate` with a stream of `Delta`, with the newest version there is.

It follows the announcements of its policy's parameter server, copies the newest version when one
appears, and swaps it in between tokens, in the middle of sequences. Requests for a pinned version
(evaluation) are written by a second engine, the pinned lane, that has one version at a time. When
an engine dies the generator dies with it: whoever asked goes on elsewhere with what it has.

Knows nothing of tickets, groups, rewards or text. The driver and other agents ask it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated, Any

from realnet import Actor, Ask, Config, StateIn, doc, handles
from realnet.actor import Need, Place
from realnet.config import Seconds, Shared
from realnet.errors import RealnetError
from realnet.roles.generator.canary import CanaryFailed, judge, judge_whole, sequences_of
from realnet.roles.generator.engine import (
    Engine,
    EngineConfig,
    EngineDied,
    SwapUndone,
    check_device,
    make_engine,
)
from realnet.roles.generator.lane import Lane
from realnet.roles.generator.memory import generation_need
from realnet.roles.messages import (
    Announced,
    Canary,
    Delta,
    FetchVersion,
    Generate,
    Held,
    JoinUpdate,
    Manifest,
    Over,
    UpdateEnded,
    Version,
)
from realnet.roles.models.check import check_policy
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy
from realnet.roles.weights import WeightsDamaged, WeightsGone
from realnet.roles.weights.digests import check as check_digest
from realnet.roles.weights.intake import Intake
from realnet.roles.weights.receiver import Receiver
from realnet.roles.weights.room import Room

_AGAIN_S = 0.5  # until a version that could not be copied is tried again


class GeneratorConfig(Config):
    """`[roles.generator]`."""

    engine: Annotated[EngineConfig, doc('{ kind = "torch", slots = 64, kv = "recompute" }')] = (
        EngineConfig()
    )
    figures: Annotated[Seconds, doc("how often speed and load are written down")] = Seconds(5)


class Generator(Actor[GeneratorConfig]):
    """Writes tokens. See the module."""

    shared = (Policy,)
    versions = StateIn(Announced, joined_by="policy")
    weights = Ask(FetchVersion, JoinUpdate, UpdateEnded, joined_by="policy")

    @classmethod
    def preload(cls) -> None:
        with suppress(ImportError):  # the fake engine does without torch
            import realnet.roles.generator.torch_engine  # noqa: F401

    @classmethod
    def needs(cls, config: GeneratorConfig, shared: dict[type[Shared], Any], place: Place) -> Need:
        """Count what the engine takes, from the model's config alone."""
        return generation_need(config.engine, shared[Policy], place)

    @classmethod
    def check(cls, config: GeneratorConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse a policy or a device that the engine cannot work with."""
        if config.engine.kind == "torch":
            check_policy(shared[Policy], base)
            check_device(config.engine.device)
        elif config.engine.kind == "vllm":
            from realnet.roles.generator.vllm.model import check_vllm

            check_policy(shared[Policy], base)
            check_vllm(config.engine, shared[Policy], base)

    async def start(self) -> None:
        policy = self.one(Policy)
        tokenizer = load_tokenizer(policy, self.run_info.base)
        self._vocab_size = tokenizer.vocab_size
        self._announced: Announced | None = None
        self._news = asyncio.Condition()
        self._swapped = asyncio.Condition()
        self._receiver = Receiver(self, self.weights, member=str(self.address))
        self._intake = Intake(self, self._receiver)
        self._room = Room()
        self._loading = asyncio.Lock()  # one room: one version is copied at a time
        self._pinning = asyncio.Lock()
        self._stall_s = 0.0
        self._pinned: Lane | None = None
        self._main = Lane(await self._engine())

    async def run(self) -> None:
        """Follow versions, and write."""
        self.spawn(self._follow(), name="follow versions")
        self.spawn(self._figures(), name="figures")
        await self._main.engine.run()

    async def stop(self) -> None:
        for lane in (getattr(self, "_main", None), getattr(self, "_pinned", None)):
            if lane is not None:
                await lane.engine.close()
        if hasattr(self, "_receiver"):
            # In the compute thread, after a copy that may still be going on there.
            await self.compute(self._receiver.close, label="close weights")
            await self._intake.close()
            self._room.close()

    @handles
    async def generate(self, request: Generate) -> AsyncIterator[Delta]:
        """Answer one request. Closing the stream ends it."""
        if request.pinned is None and request.at_least is not None:
            await self._reached(request.at_least)
        lane = await self._lane(request.pinned)
        try:
            async with aclosing(lane.engine.stream(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except EngineDied:
            # `run` ends this generator for it. Who asked is told of a death, not of a refusal.
            await asyncio.Event().wait()
        finally:
            lane.release()

    # ------------------------------------------------------------ versions

    async def _follow(self) -> None:
        """Take every newest version that appears; what cannot be taken is tried again."""
        announced = await self.versions.get()
        while True:
            async with self._news:
                self._announced = announced
                self._news.notify_all()
            newest = announced.newest
            new = newest is not None and newest.manifest.version != self._main.engine.version
            if newest is not None and new and self._receiver.ready(announced, newest):
                try:
                    await self._load(self._main.engine, newest)
                    self.progress(f"writes {newest.manifest.version}")
                except (WeightsGone, WeightsDamaged, SwapUndone) as error:
                    self.event(f"{self.address} keeps its version: {error}")
                    # With η = 0 no newer one comes before this one has written: try it again.
                    await self.clock.sleep(_AGAIN_S)
                    announced = self.versions.value or announced
                    continue
            announced = await self.versions.changed()

    async def _load(self, engine: Engine, held: Held) -> None:
        """Copy a version and swap it in. Only the swap, and the copy's turn, hold tokens up."""
        manifest = held.manifest
        async with self._loading:
            if engine.takes_weights:
                announced = self._announced or Announced(held)
                manifest = await self._intake.take(
                    *(held, announced, self._room, engine.device), opens_loans=engine.opens_loans
                )
            try:
                await engine.stage(manifest, self._room)
                stall_s = await engine.swap()
                if engine.takes_weights and manifest.canary is not None:
                    await self._prove(engine, manifest, manifest.canary, held.manifest.over)
            finally:
                self._room.end_loan()
        self._stall_s = max(self._stall_s, stall_s)
        async with self._swapped:
            self._swapped.notify_all()

    async def _prove(
        self, engine: Engine, manifest: Manifest, canary: Canary, over: Over | None
    ) -> None:
        """Score the trainer's tokens with what was loaded. Raises CanaryFailed, which is final."""
        where = f"{self.address} ({self.config.engine.kind})"
        try:
            await self.compute(self._check, manifest, f"as {where} has it", label="check digest")
        except WeightsDamaged as error:
            raise CanaryFailed(str(error)) from error
        if over is not None:
            judge_whole(over, manifest, where)
        scored = await engine.score(sequences_of(canary))
        apart = judge(canary, scored, manifest.version, where)
        self.metrics(canary=apart, version=manifest.version.number)

    def _check(self, manifest: Manifest, where: str) -> None:
        loan = self._room.loan
        if loan is None:
            check_digest(manifest, self._room.view(), where)
        else:
            loan.check(manifest, where)

    async def _reached(self, version: Version) -> None:
        """Wait until tokens are written by this version or a newer one."""
        while not _covers(self._main.engine.version, version):
            async with self.waiting(f"{version} to be swapped in"), self._swapped:
                if not _covers(self._main.engine.version, version):
                    await self._swapped.wait()

    async def _engine(self) -> Engine:
        engine = make_engine(
            self.config.engine,
            self.one(Policy),
            self._vocab_size,
            self.run_info.base,
            self.run_info.folder / f"{self.address.role}-{self.address.index}",
            self.rng.getrandbits(63),
            self,
        )
        await engine.start()
        return engine

    # ------------------------------------------------------------ pinned versions

    async def _lane(self, pinned: Version | None) -> Lane:
        """Return the lane that writes this version (None: always the newest), held for one user."""
        if pinned is None:
            return self._main.hold()
        async with self._pinning:  # in order, so that a stream of one pin does not starve another
            lane = self._pinned
            if lane is None:
                lane = self._pinned = Lane(await self._engine())
                self.spawn(lane.engine.run(), name="pinned lane")
            if lane.engine.version != pinned:
                held = await self._find(pinned)
                async with self.waiting("the pinned lane to be idle"):
                    await lane.idle()
                try:
                    await self._load(lane.engine, held)
                except (WeightsGone, WeightsDamaged, SwapUndone) as error:
                    raise RealnetError(f"{pinned} is pinned, but cannot be had: {error}") from None
            return lane.hold()

    async def _find(self, pinned: Version) -> Held:
        """Return where a version is held; one that is newer than the newest known is waited for."""
        while True:
            announced = self._announced
            if announced is not None:
                known = [*announced.older, *([announced.newest] if announced.newest else [])]
                for held in known:
                    if held.manifest.version == pinned:
                        return held
                newest = announced.newest and announced.newest.manifest.version
                if newest and (newest.branch, newest.number) >= (pinned.branch, pinned.number):
                    versions = ", ".join(str(held.manifest.version) for held in known)
                    raise RealnetError(
                        f"{pinned} is pinned, but no longer held; held are: {versions}. Ask again "
                        f"with one of these, or let the parameter server keep more"
                    )
            async with self.waiting(f"{pinned} to be announced"), self._news:
                if announced is self._announced:
                    await self._news.wait()

    # ------------------------------------------------------------ figures

    async def _figures(self) -> None:
        """Write down speed and load at intervals."""
        tokens, since_s = 0, self.clock.now()
        while True:
            await self.clock.sleep(self.config.figures)
            lanes = [lane for lane in (self._main, self._pinned) if lane]
            written, now_s = sum(lane.engine.tokens for lane in lanes), self.clock.now()
            version = self._main.engine.version
            self.metrics(
                tokens_per_s=(written - tokens) / max(now_s - since_s, 1e-9),
                running=sum(lane.engine.num_running for lane in lanes),
                waiting=sum(lane.engine.num_waiting for lane in lanes),
                swap_stall_ms=1e3 * self._stall_s,
                version=version.number if version else -1,
            )
            tokens, since_s, self._stall_s = written, now_s, 0.0


def _covers(have: Version | None, wanted: Version) -> bool:
    """Tell whether a version is this one or newer; a later branch is newer than any number."""
    return have is not None and (have.branch, have.number) >= (wanted.branch, wanted.number)
