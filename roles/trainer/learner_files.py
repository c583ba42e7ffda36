"""A learner's state as files: safetensors for tensors, JSON for the rest. No file holds code.

`model.safetensors` (weights), `learner.safetensors` (moments, fp32 copies, generator state),
`learner.json` (format, counters). Atomicity is the checkpoint's business, not this file's.

Knows tensors and paths. Called by the learner.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from realnet.errors import CheckpointError, listed

FORMAT = 1
MODEL, STATE, SCALARS = "model.safetensors", "learner.safetensors", "learner.json"


def write(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    scalars: Mapping[str, int],
) -> None:
    """Write the three files into an existing or new folder. Raises OSError, on a full disk too."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(weights, folder / MODEL)
    write_small(folder, state, scalars)


def write_small(
    folder: Path, state: Mapping[str, torch.Tensor], scalars: Mapping[str, int]
) -> None:
    """Write all but the weights, which are elsewhere. Raises OSError, on a full disk too."""
    write_tensors(state, folder / STATE)
    text = json.dumps({"format": FORMAT, **scalars}, indent=2)
    (folder / SCALARS).write_text(text + "\n", encoding="utf-8")


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write one file. Raises OSError, on a full disk too."""
    try:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)
    except SafetensorError as error:  # it has no kind of its own for what the system refused
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read(
    folder: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, int]]:
    """Return what `write` wrote, or the ranks of a gang; raises CheckpointError, naming the file.

    Weights of a gang are fp32 whatever the policy's dtype is, and its moments are of those.
    """
    state, scalars = read_small(folder)
    if "ranks" in scalars:
        from realnet.roles.trainer.fsdp.files import read_whole

        weights, moments = read_whole(folder)
        return weights, {**state, **moments}, scalars
    return _tensors(folder, MODEL), state, scalars


def read_small(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Return what `write_small` wrote; raises CheckpointError, naming the file."""
    try:
        scalars: dict[str, int] = json.loads((folder / SCALARS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    state = _tensors(folder, STATE)
    lacking = {"steps"} - scalars.keys() | {"generator"} - state.keys()
    if lacking:
        raise CheckpointError(f"{folder}: the learner's state lacks {listed(lacking)}")
    if scalars.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / SCALARS}: format {scalars.get('format')}, this realnet reads {FORMAT}: "
            "resume with the version that wrote it"
        )
    return state, scalars


def as_coarse(
    weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return weights in the policy's dtype, and fp32 copies of coarse ones in the state."""
    fine = dtype == torch.float32
    masters = {} if fine else {f"master/{name}": weight for name, weight in weights.items()}
    return {n: w.to(dtype) for n, w in weights.items()}, {**state, **masters}


def _tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        found: dict[str, torch.Tensor] = load_file(folder / name)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    return found


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: the learner's state does not read: {error}. Resume from an older checkpoint"
    )


def check_weights(
    path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> None:
    """Raise CheckpointError unless names, shapes and dtypes in a file are those of the model."""
    for name in sorted(set(found) | set(wanted)):
        have = _kind(found[name]) if name in found else None
        need = _kind(wanted[name]) if name in wanted else None
        if have != need:
            raise CheckpointError(
                f"{path}: {name} is {have or 'missing'}, the policy's model has "
                f"{need or 'no such weight'}: the checkpoint is of another model"
            )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
