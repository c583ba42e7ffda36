"""The reference policy: frozen weights that a KL is measured against.

"start" is the policy as it was at step 0, kept in one file of the run's folder, written once before
the first step; anything else is a folder with a model of the same shape. Nothing trains it.

Knows models and files, not losses. Called by the learner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from realnet.errors import CheckpointError, ConfigError
from realnet.roles.models.build import build_model, load_named_weights, named_weights
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner_files import check_weights, write_tensors

FILE = "reference.safetensors"


def from_folder(made: Any, policy: Policy, reference: str, tokenizer: Tokenizer, base: Path) -> Any:
    """Return `made`, a model of the policy, with the weights of a folder. Raises ConfigError."""
    table = msgspec.structs.replace(policy, model=reference, shape={})
    other = build_model(table, tokenizer, base, policy.seed)
    try:
        load_named_weights(made, dict(named_weights(other)))
    except ConfigError as error:
        raise ConfigError(
            f'[roles.trainer].reference = "{reference}" must be a model like the policy\'s: {error}'
        ) from None
    return made.requires_grad_(False)


def keep_start(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of step 0, whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{FILE}.new"
    write_tensors(weights, fresh)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.rename(folder / FILE)


def read_start(folder: Path, made: Any) -> Any:
    """Return `made` with the policy's weights at step 0. Raises CheckpointError."""
    path = folder / FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f'{path} does not read: {error}. It is what [roles.trainer].reference = "start" '
            "measures against; it was written before the first step. Bring it back, or name a "
            "model's folder as the reference"
        ) from error
    # A gang keeps them in fp32; a process that goes on from it has them in the policy's dtype.
    own = dict(made.named_parameters())
    cast = {n: w.to(own[n].dtype) if n in own else w for n, w in weights.items()}
    check_weights(path, cast, own)
    load_named_weights(made, cast)
    return made.requires_grad_(False)
