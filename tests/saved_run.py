"""The folder of a small run that has saved checkpoints, for tests of those who read them."""

from __future__ import annotations

from pathlib import Path

import msgspec
from small_rl import SHAPE, topology

from realnet.roles.checkpoints.checkpoint import Checkpoints
from realnet.roles.checkpoints.meta import Meta
from realnet.roles.messages import Version
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.trainer import TrainerConfig
from realnet.topology import read_source, resolve
from realnet.topology.plan import write_plan


def saved_run(base: Path) -> Path:
    """Return the folder of a run "demo" with one checkpoint, of step 3."""
    path = base / "small.toml"
    path.write_text(topology())
    plan = resolve(read_source(path, ()), "demo")
    folder = base / "runs" / "demo"
    folder.mkdir(parents=True)
    write_plan(plan, folder)
    save(folder, Version("policy", 0, 3))
    return folder


def save(folder: Path, version: Version, tokens: str = "") -> Learner:
    policy = Policy(
        model="new:llama",
        tokenizer="new:chars",
        shape=SHAPE,
        context=80,
        seed=5,  # not the plan's: the weights must come from the checkpoint
    )
    learner = Learner(policy, TrainerConfig(), load_tokenizer(policy, folder), folder)
    meta = Meta("policy", version.branch, version.number, 1, tokens=tokens or learner.tokens)
    small = {"meta.json": msgspec.json.encode(meta)}
    checkpoints = Checkpoints(folder / "checkpoints", keep=9)
    checkpoints.save(version.number, small, lambda part: learner.save(part / "learner"))
    return learner
