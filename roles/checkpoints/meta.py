"""meta.json of a checkpoint: which policy and version it holds, and where the journal goes on.

Knows nothing of the other files. Written and read by `store.py` and the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import xxhash

from realnet.errors import CheckpointError, ConfigError
from realnet.roles.checkpoints.checkpoint import Found
from realnet.roles.messages import Version
from realnet.roles.tables import Task


class Meta(msgspec.Struct):
    """meta.json of a checkpoint."""

    policy: str
    branch: int
    number: int
    journal_from: int  # the first segment that this checkpoint needs
    trained_s: float = 0.0  # time spent in this run so far
    asks: str = ""  # digest of what tickets ask; a topology may change between two attempts
    tokens: str = ""  # digest of the vocabulary; empty: an older realnet wrote this
    origin: str = ""  # the run and version that this run was forked from; empty: none

    @property
    def version(self) -> Version:
        """The version that the checkpoint holds."""
        return Version(self.policy, self.branch, self.number)


def read_meta(found: Found) -> Meta:
    """Return meta.json of a checkpoint. Raises CheckpointError."""
    try:
        return msgspec.json.decode(found.read("meta.json"), type=Meta)
    except (msgspec.DecodeError, OSError) as error:
        raise CheckpointError(f"{found.folder}/meta.json does not read: {error}") from error


def check_tokens(meta: Meta, tokens: str, where: Path) -> None:
    """Raise ConfigError unless the checkpoint's weights are about these token ids."""
    if meta.tokens and tokens and meta.tokens != tokens:
        raise ConfigError(
            f"{where} was trained with another vocabulary: its weights would read other tokens "
            "than they learnt. Bring back the tokenizer that it was trained with ([policy].model "
            "or [policy].tokenizer leads to it)"
        )


def digest_of_tasks(tasks: Mapping[str, Task], group: int, curriculum: str = "") -> str:
    """Return a digest of all that decides what a ticket's number asks, and how often.

    `curriculum` is the fingerprint of a function that deals tickets, if there is one.
    """
    trained = {name: task for name, task in sorted(tasks.items()) if task.use == "train"}
    return xxhash.xxh3_64_hexdigest(
        msgspec.msgpack.encode((group, trained, *([curriculum] if curriculum else [])))
    )
