"""What rank 0 of a gang does in the tests of the back end `fsdp`; run in processes of their own."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from realnet.roles.messages import (
    Group,
    Rollout,
    SampleKey,
    Scored,
    Segment,
    SlotOpened,
    Span,
    TicketKey,
    Version,
)
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.fsdp import shard as shard_module
from realnet.roles.trainer.fsdp.crew import Crew
from realnet.roles.trainer.fsdp.learner import ShardedLearner
from realnet.roles.trainer.fsdp.shard import Shard
from realnet.roles.trainer.learner import Learner, NonFinite
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.outgoing import What
from realnet.roles.trainer.publisher import Elsewhere
from realnet.roles.weights import ArenaSlots, tensors
from realnet.roles.weights.slices import digest_part, untiled
from realnet.roles.weights.sources import this_host

NOW = Version("p", 0, 7)
SHAPE: dict[str, int | float | bool] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 30,  # does not divide by 4: shards of unequal size
}
Tell = Callable[[int, Any], Any]


class Stage:
    """Tables of a scenario, alike in all ranks. `fine`: weights and sums in fp64."""

    def __init__(
        self,
        rank: int,
        ranks: int,
        *,
        policy: dict[str, Any] | None = None,
        configs: Sequence[dict[str, Any]] = ({},),
        fine: bool = False,
        folder: str = "",
    ) -> None:
        torch.set_num_threads(1)
        table = {"model": "new:llama", "tokenizer": "new:chars", "shape": SHAPE, "max_tokens": 16}
        self.policy = msgspec.convert({**table, **(policy or {})}, Policy)
        common = {"lr": 1e-2, "backend": "fsdp"}
        self.configs = [msgspec.convert({**common, **c}, LearnerConfig) for c in configs]
        self._made = -1
        self.rank, self.ranks, self.fine = rank, ranks, fine
        self.folder = Path(folder)
        self.tokenizer = Tokenizer.new_chars()
        if fine:
            for name in ("build_model", "build_empty"):
                setattr(shard_module, name, _doubled(getattr(shard_module, name)))

    @property
    def config(self) -> LearnerConfig:
        """The table of the learner that was made last; there may be one after the other."""
        return self.configs[max(self._made, 0)]

    def shard(self) -> Shard:
        self._made += 1
        return Shard(self.policy, self.config, self.tokenizer, Path(), self.rank, self.ranks)

    def learner(self, tell: Tell) -> ShardedLearner:
        self._made += 1
        crew = Crew(self.ranks, tell)
        return ShardedLearner(self.policy, self.config, self.tokenizer, Path(), 0, crew)

    def plain(self) -> Learner:
        config = msgspec.structs.replace(self.config, backend="plain")
        made = Learner(self.policy, config, self.tokenizer, Path())
        if self.fine:
            made.model.double()
        return made


def _doubled(build: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: build(*args).double()


def batch(tickets: int = 4, size: int = 4, seed: int = 0, bad: float = 0.0) -> list[Group]:
    """Return groups of random answers with mixed rewards; `bad` is added to one logprob."""
    rng = np.random.default_rng(seed)
    groups = []
    for t in range(tickets):
        key = TicketKey("p", t)
        question = Segment("prompt", rng.integers(4, 30, 3).astype(np.int32), np.zeros(0, "f4"))
        members = []
        for s in range(size):
            ids = rng.integers(4, 30, rng.integers(2, 12)).astype(np.int32)
            logp = np.full(len(ids), -3.5, np.float32)
            logp[0] += bad
            answer = Segment("model", ids, logp, (Span(NOW, len(ids)),), learn=True)
            rollout = Rollout(SampleKey(key, s), "t", "", "", "", (question, answer), "stop")
            members.append(Scored(rollout, float(rng.random() < 0.5) + 0.1 * s))
        groups.append(Group(key, tuple(members)))
    return groups


def age(version: Version) -> int:
    return NOW.number - version.number


def weights(of: Learner) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array.copy() for name, array, _ in of.weights()}


def steps(of: Learner, seeds: Sequence[int]) -> list[dict[str, float]]:
    return [of.step(batch(seed=seed), NOW, age) for seed in seeds]


def train(stage: Stage, tell: Tell, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
    """Steps from the start; the state is saved in the stage's folder."""
    made = stage.learner(tell)
    made.refer(stage.folder)
    signs = steps(made, seeds)
    made.save(stage.folder / "state")
    return {"signs": signs, "weights": weights(made)}


def train_each(stage: Stage, tell: Tell) -> list[list[str]]:
    """One step with each table; the states are saved in the stage's folder by number."""
    names = []
    for number, _ in enumerate(stage.configs):
        made = stage.learner(tell)
        made.refer(stage.folder)
        steps(made, (0,))
        made.save(stage.folder / f"{number}")
        names.append([name for name, _, _ in made.weights()])
    return names


def five(stage: Stage, tell: Tell) -> dict[str, Any]:
    """Two steps, saved beside three more of training; the files are as of the second."""
    made = stage.learner(tell)
    made.refer(stage.folder)
    signs = steps(made, (0, 1))
    made.stage(stage.folder / "state")
    signs += steps(made, (2, 3, 4))
    files = made.finish(stage.folder / "state")
    made.export(stage.folder / "export")
    return {"signs": signs, "weights": weights(made), "files": [f.name for f in files]}


def published(stage: Stage, tell: Tell) -> dict[str, Any]:
    """A step, and a version of what came of it that each rank wrote its slices of.

    With adapters, the base is a version of its own.
    """
    made = stage.learner(tell)
    made.refer(stage.folder)
    steps(made, (0,))
    key = made.base_key() if made.config.lora.rank else ""
    result = {what: _published(stage, made, what) for what in ("version", "base")}
    digest = made.whole_digest(NOW) if key else ""
    told = {"weights": weights(made), "key": key, "digest": digest}
    return {**result["version"], **told, "base": result["base"]}


def _published(stage: Stage, made: ShardedLearner, what: What) -> dict[str, Any]:
    plan = made.plan(NOW, what)
    size = ArenaSlots.slot_bytes(plan.num_bytes)
    path = stage.folder / "arena"
    path.write_bytes(b"")
    os.truncate(path, 3 * size)
    arena = ArenaSlots(str(path), 3, size)
    arena.begin(1)
    where = arena.location(1)
    parts = made.publish(NOW, SlotOpened(where, this_host()), what)
    wrong = untiled(plan, [tensor for part in parts for tensor in part.tensors])
    with arena.view(1) as view:
        same = all(digest_part(part, view) == part.digest for part in parts)
        found = {name: array.copy() for name, array in tensors(plan, view).items()}
    try:
        made.publish(NOW, SlotOpened(where, "another"), what)
        said = ""
    except Elsewhere as error:
        said = str(error)
    share = [sum(t.num_bytes for t in part.tensors) for part in parts]
    gathered = {name: array.copy() for name, array, _ in made.outgoing(what)}
    told = {"found": found, "gathered": gathered, "share": share, "said": said, "plan": plan}
    return {**told, "wrong": wrong, "same": same, "bytes": plan.num_bytes}


def publication_memory(stage: Stage, tell: Tell) -> dict[str, int]:
    """What rank 0 takes beside what it has: to write its slices, and to have all in one place."""
    made = stage.learner(tell)
    plan = made.plan(NOW, "version")
    size = ArenaSlots.slot_bytes(plan.num_bytes)
    path = stage.folder / "arena"
    path.write_bytes(b"")
    os.truncate(path, size)
    arena = ArenaSlots(str(path), 1, size)
    arena.begin(0)
    opened = SlotOpened(arena.location(0), this_host())
    mine = made.publish(NOW, opened, "version")[0]
    largest = max(t.num_bytes for t in mine.tensors)
    return {
        "sliced": peak(lambda: made.publish(NOW, opened, "version")),
        "whole": peak(made.weights),
        "version": plan.num_bytes,
        "largest": largest,
    }


def peak(work: Callable[[], Any]) -> int:
    """By how many bytes the memory of this process alone grows at the most while it works."""
    gc.collect()
    before, most, over = _own_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.0005):
            most = max(most, _own_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    result = work()
    over.set()
    watching.join()
    del result
    return max(most - before, 0)


def _own_bytes() -> int:
    """Memory without files and shared pages."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def canaries(stage: Stage, tell: Tell) -> dict[str, Any]:
    """A step, saved; the canary of what came of it, and one step more."""
    made = stage.learner(tell)
    made.refer(stage.folder)
    steps(made, (0,))
    made.save(stage.folder / "state")
    found = {"weights": weights(made), "canary": made.canary(NOW).logprobs}
    return {**found, "signs": steps(made, (1,))}


def go_on(stage: Stage, tell: Tell) -> dict[str, Any]:
    """Load the stage's state, take one step, save in "again"."""
    made = stage.learner(tell)
    made.load(stage.folder / "state")
    made.refer(stage.folder)
    signs = steps(made, (made.steps,))
    made.save(stage.folder / "again")
    return {"signs": signs, "weights": weights(made)}


def bad_batch(stage: Stage, tell: Tell) -> dict[str, Any]:
    """A step with one number that is none, in the midst of good ones."""
    made = stage.learner(tell)
    made.refer(stage.folder)
    signs = steps(made, (0,))
    before = weights(made)
    try:
        made.step(batch(seed=1, bad=math.nan), NOW, age)
        said = ""
    except NonFinite as error:
        said = str(error)
    same = all(np.array_equal(before[n], w) for n, w in weights(made).items())
    signs += steps(made, (2,))
    return {"said": said, "same": same, "signs": signs, "weights": weights(made)}


def fork(stage: Stage, tell: Tell) -> dict[str, Any]:
    """Begin with the weights of the stage's state, measured against themselves; take one step."""
    made = stage.learner(tell)
    said = made.adopt(stage.folder / "state")
    made.refer(stage.folder / "fork")
    before = weights(made)
    signs = steps(made, (2,))
    return {"said": said, "steps": made.steps, "signs": signs, "weights": before}
