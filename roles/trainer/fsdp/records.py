"""What the leader of a trainer's gang tells the other ranks, and what they answer.

Knows nothing of models. Sent over the gang's private port (`crew.py`, `follower.py`).
"""

from __future__ import annotations

from typing import Literal

from realnet.message import Message, Request
from realnet.roles.messages import Manifest, SlotOpened, Version
from realnet.roles.trainer.learner_part import Floats, Part

Move = Literal[
    "meet", "spread", "refer", "score", "mark", "update", "put_back", "gather", "read", "stage",
    "write", "publish", "sum_up",
]  # fmt: skip


class Written(Message):
    """A file of a checkpoint that a rank wrote and made durable."""

    name: str
    size: int
    xxh3_128: str


class Report(Message):
    """A rank made its move. `logp` is what it scored; the rest is what its micro-batches say."""

    logp: tuple[Floats, ...] = ()
    loss: float = 0.0
    norm: float = 0.0
    sums: dict[str, float] = {}
    tokens: int = 0
    largest: float = 0.0
    files: tuple[Written, ...] = ()
    error: str = ""  # why a checkpoint or a version could not be written
    part: Manifest | None = None  # the slices that it wrote of a version
    digest: str = ""  # of its slices of a base


class Order(Request[Report]):
    """A move that all ranks make together. Which fields count depends on `move`.

    meet: `host`, `port` of the store. spread, refer: the model, the reference is built and cut.
    score: `parts`, with the policy or its `reference`, at a `temperature` (0: the policy's).
    update: `parts`, one for each pass, None where this rank has nothing to do. mark: remember the
    state, before `updates` updates; put_back: return to it. gather: help the leader to read whole
    weights. read, stage, write: a
    checkpoint's files in `folder`; with `base`, of the frozen weights beside adapters too.
    publish: each rank's slices of `version`, a base if `base`, into the slot that was `opened`.
    sum_up: the digest of each rank's slices of the base.
    """

    move: Move
    host: str = ""
    port: int = 0
    parts: tuple[Part | None, ...] = ()
    reference: bool = False
    lr: float = 0.0
    updates: int = 0
    folder: str = ""
    temperature: float = 0.0
    base: bool = False
    version: Version | None = None
    opened: SlotOpened | None = None
