"""The generator: answers `Generate` with a stream of `Delta`, with the newest version there is.

It follows the announcements of its policy's parameter server, copies the newest version when one
appears, and swaps it in between tokens, in the middle of sequences. When an engine dies the
generator dies with it: whoever asked goes on elsewhere with what it has.

Requests for one pinned version (evaluation) are written by `pinning.py`.

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
from realnet.roles.generator.canary import CanaryFailed, judge, judge_whole, sequences_of
from realnet.roles.generator.engine import (
    Engine,
    EngineConfig,
    EngineDied,
    SwapUndone,
    check_device,
    make_engine,
)
from realnet.roles.generator.known import Known, covers
from realnet.roles.generator.memory import generation_need
from realnet.roles.generator.pinning import Pinning
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
    def probe(cls, config: GeneratorConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse a GPU that is not there, and memory that this host does not have."""
        if config.engine.kind == "torch" and config.engine.device:
            from realnet.roles.generator.torch_engine import device_of

            device_of(config.engine)
        elif config.engine.kind == "vllm":
            from realnet.roles.generator.vllm.host_memory import check_room

            check_room(config.engine, shared[Policy], base)

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
        self._known = Known(self)
        self._swapped = asyncio.Condition()
        self._receiver = Receiver(self, self.weights, member=str(self.address))
        self._intake = Intake(self, self._receiver)
        self._room = Room()
        self._loading = asyncio.Lock()  # one room: one version is copied at a time
        self._stall_s = 0.0
        self._main = await self.make_engine()
        second = self.config.engine.keeps_second
        self._pinning = Pinning(self, self._known, self._main, second=second)

    async def run(self) -> None:
        """Follow versions, and write."""
        self.spawn(self._follow(), name="follow versions")
        self.spawn(self._figures(), name="figures")
        await self._main.run()

    async def stop(self) -> None:
        for opened in (getattr(self, "_main", None), getattr(self, "_pinning", None)):
            if opened is not None:
                await opened.close()
        if hasattr(self, "_receiver"):
            # In the compute thread, after a copy that may still be going on there.
            await self.compute(self._receiver.close, label="close weights")
            await self._intake.close()
            self._room.close()

    @handles
    async def generate(self, request: Generate) -> AsyncIterator[Delta]:
        """Answer one request. Closing the stream ends it."""
        if request.pinned is None and request.at_least is not None:
            await self.reached(request.at_least)
        write = self._main.stream if request.pinned is None else self._pinning.write
        try:
            async with aclosing(write(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except EngineDied:
            # `run` ends this generator for it. Who asked is told of a death, not of a refusal.
            await asyncio.Event().wait()

    # ------------------------------------------------------------ versions

    async def _follow(self) -> None:
        """Take every newest version that appears; what cannot be taken is tried again."""
        announced = await self.versions.get()
        while True:
            await self._known.tell(announced)
            newest, have = announced.newest, self._main.version
            # Whatever is told twice, or late: an engine goes forward.
            new = newest is not None and not (have and covers(have, newest.manifest.version))
            if newest is not None and new and self._receiver.ready(announced, newest):
                try:
                    await self.load(self._main, newest)
                    self.progress(f"writes {newest.manifest.version}")
                except (WeightsGone, WeightsDamaged, SwapUndone) as error:
                    self.event(f"{self.address} keeps its version: {error}")
                    # With η = 0 no newer one comes before this one has written: try it again.
                    await self.clock.sleep(_AGAIN_S)
                    announced = self.versions.value or announced
                    continue
            announced = await self.versions.changed()

    async def load(self, engine: Engine, held: Held) -> None:
        """Copy a version and swap it in. Only the swap, and the copy's turn, hold tokens up."""
        manifest = held.manifest
        async with self._loading:
            if engine.takes_weights:
                announced = self._known.announced or Announced(held)
                manifest = await self._intake.take(
                    *(held, announced, self._room, engine.device), opens_loans=engine.opens_loans
                )
            try:
                await engine.stage(manifest, self._room)
                main = engine is self._main
                stall_s = await (self._pinning.swap(manifest.version) if main else engine.swap())
                if engine.takes_weights and manifest.canary is not None:
                    await self._prove(engine, manifest, manifest.canary, held.manifest.over)
            finally:
                if self._room.loan is not None:  # behind what was asked of the GPU
                    await self.compute(self._room.end_loan, label="end loan")
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

    async def reached(self, version: Version) -> None:
        """Wait until tokens are written by this version or a newer one."""
        while not covers(self._main.version, version):
            async with self.waiting(f"{version} to be swapped in"), self._swapped:
                if not covers(self._main.version, version):
                    await self._swapped.wait()

    async def make_engine(self) -> Engine:
        """Return an engine of the configured kind, started."""
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

    # ------------------------------------------------------------ figures

    async def _figures(self) -> None:
        """Write down speed and load at intervals."""
        tokens, since_s = 0, self.clock.now()
        while True:
            await self.clock.sleep(self.config.figures)
            second = self._pinning.second
            engines = [self._main, *([second.engine] if second else [])]
            written, now_s = sum(engine.tokens for engine in engines), self.clock.now()
            version = self._main.version
            self.metrics(
                tokens_per_s=(written - tokens) / max(now_s - since_s, 1e-9),
                running=sum(engine.num_running for engine in engines),
                waiting=sum(engine.num_waiting for engine in engines),
                swap_stall_ms=1e3 * self._stall_s,
                version=version.number if version else -1,
            )
            tokens, since_s, self._stall_s = written, now_s, 0.0
