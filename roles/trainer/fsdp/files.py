"""A cut learner's state as files: each rank writes what it holds, any number of ranks read it.

torch.distributed.checkpoint does the work, in its safetensors form: no file holds code, and each
tells which slices of which tensors are in it. Names are `weight/…`, and those of the optimizer's
state. Atomicity is the checkpoint's business, not this file's.

Knows tensors and paths. Called by `shard.py`, on every rank.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from realnet.errors import CheckpointError
from realnet.roles.trainer.fsdp.records import Written

WEIGHT = "weight/"
_CHUNK = 2**20
Kinds = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def begin(folder: Path, state: Mapping[str, torch.Tensor], group: dist.ProcessGroup) -> Future[Any]:
    """Copy the state aside and write it in a thread. Every rank calls it, with its own shards."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    begun = async_save(dict(state), storage_writer=writer, process_group=group)
    assert isinstance(begun, Future)
    return begun


def finish(folder: Path, rank: int, writing: Future[Any]) -> tuple[Written, ...]:
    """Wait for a rank's files, make them durable, and return them. Raises OSError."""
    try:
        writing.result()
    except Exception as error:
        raise OSError(f"rank {rank}: {_first_line(error)}") from error
    done: list[Written] = []
    for path in sorted(folder.glob(f"shard-{rank + 1:05d}-*")):
        seen, size = xxhash.xxh3_128(), 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                seen.update(chunk)
                size += len(chunk)
            os.fsync(file.fileno())
        done.append(Written(path.name, size, seen.hexdigest()))
    return tuple(done)


def kinds(folder: Path) -> Kinds:
    """Return dtype and shape of every tensor in a folder. Raises CheckpointError."""
    try:
        known = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:  # the library raises whatever its readers do
        raise CheckpointError(
            f"{folder}: the learner's shards do not read: {_first_line(error)}. Resume from an "
            "older checkpoint"
        ) from error
    return {
        name: (kind.properties.dtype, tuple(kind.size))
        for name, kind in known.items()
        if isinstance(kind, TensorStorageMetadata)
    }


def check(folder: Path, found: Kinds, wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError unless the weights in a folder are those of the model."""
    if not found:
        raise CheckpointError(
            f'{folder} holds no shards: it was written by backend = "plain". Resume with that, or '
            "start a new run from its export"
        )
    need = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in wanted.items()}
    have = {name: kind for name, kind in found.items() if name.startswith(WEIGHT)}
    for name in sorted(need.keys() | have.keys()):
        if have.get(name) != need.get(name):
            raise CheckpointError(
                f"{folder}: {name.removeprefix(WEIGHT)} is {_kind(have.get(name))}, the policy's "
                f"model has {_kind(need.get(name))}: the checkpoint is of another model"
            )


def read(folder: Path, into: dict[str, torch.Tensor], group: dist.ProcessGroup) -> None:
    """Read tensors in place, each rank its slices. Every rank calls it. Raises CheckpointError."""
    try:
        reader = HuggingFaceStorageReader(str(folder))
        load(into, storage_reader=reader, process_group=group)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the learner's shards do not read: {_first_line(error)}. Resume from an "
            "older checkpoint"
        ) from error


def read_whole(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return weights by name, and the optimizer's state, whole, without a gang.

    Raises CheckpointError.
    """
    reader = HuggingFaceStorageReader(str(folder))
    into = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in kinds(folder).items()}
    try:
        with warnings.catch_warnings(action="ignore"):  # that there is no gang here is meant
            load(into, storage_reader=reader, no_dist=True)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the learner's shards do not read: {_first_line(error)}. Resume from an "
            "older checkpoint"
        ) from error
    weights = {n.removeprefix(WEIGHT): t for n, t in into.items() if n.startswith(WEIGHT)}
    return weights, {n: t for n, t in into.items() if not n.startswith(WEIGHT)}


def _kind(kind: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    if kind is None:
        return "missing"
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1] if text else ''}"
