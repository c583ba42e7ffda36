"""Where weights come from without a run going on: a model's folder, a checkpoint, a warm start.

Knows models, checkpoints and the learner's files. Knows nothing of engines. Called by `try` and
`chat`. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file

from realnet.errors import CheckpointError, ConfigError, listed
from realnet.roles.checkpoints.meta import check_tokens
from realnet.roles.checkpoints.origin import Origin, policy_in
from realnet.roles.messages import Version
from realnet.roles.models.build import build_model, named_weights
from realnet.roles.models.reference import NEW, described
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.trainer import learner_files
from realnet.roles.trainer.demonstrations import demonstrations
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_lora import is_adapter
from realnet.roles.trainer.learner_saved import Saved
from realnet.roles.trainer.trainer import TrainerConfig
from realnet.roles.verbs.setting import Setting

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Weights:
    """Named weights for an engine (bf16 as uint16), their version, and in words their origin."""

    arrays: Mapping[str, np.ndarray[Any, Any]]
    version: Version
    origin: str


def base_weights(setting: Setting, tokenizer: Tokenizer) -> Weights:
    """Return the weights that a run would begin with, before any warm start."""
    policy = setting.policy
    model = build_model(policy, tokenizer, setting.base, policy.seed)
    origin = f"{policy.model} (as it is)"
    if policy.model.startswith(NEW):
        origin = f"{policy.model} with random weights: it cannot know anything yet"
    return Weights(_arrays(dict(named_weights(model))), _version(setting, 0), origin)


def check_base(setting: Setting) -> None:
    """Raise ConfigError when a run would warm this model up first, saying what may be done."""
    policy, steps = setting.policy, setting.table(TrainerConfig, "trainer").warm_start.steps
    if policy.model.startswith(NEW) and steps:
        raise ConfigError(
            f'[policy].model = "{policy.model}" begins with random weights, of which a run makes '
            f"something by a warm start of {steps} steps. Write --warm-start to do that here "
            "(once: the result is kept), or --from RUN[@step] to take a run's checkpoint"
        )


def run_weights(origin: Origin, tokenizer: Tokenizer) -> Weights:
    """Return the weights of a checkpoint.

    Raises CheckpointError when they do not read, or when the tokenizer is not the run's.
    """
    check_tokens(origin.meta, tokenizer.digest(), origin.found.folder)
    folder = origin.found.folder / "learner"
    path = folder / learner_files.MODEL
    if path.is_file():
        found = _load(path)
        if not any(map(is_adapter, found)):
            return Weights(found, origin.meta.version, str(origin))
    base = Path(origin.plan.base)
    policy = described(policy_in(origin.plan, origin.policy), base)
    weights = Saved(folder).whole(policy, tokenizer, base)
    return Weights(_arrays(weights), origin.meta.version, str(origin))


def warm_weights(setting: Setting, tokenizer: Tokenizer, kept: Path, report: Report) -> Weights:
    """Return the weights after the topology's warm start; made once, then read from `kept`."""
    config, policy = setting.table(TrainerConfig, "trainer"), setting.policy
    if not config.warm_start.steps:
        raise ConfigError("[roles.trainer].warm_start.steps = 0: there is no warm start to make")
    trained = {name: task for name, task in sorted(setting.tasks.items()) if task.use == "train"}
    decides = (policy.model, policy.tokenizer, policy.shape, policy.dtype, policy.seed)
    text = msgspec.json.encode((decides, config.warm_start, trained))
    path = kept / f"{xxhash.xxh3_64_hexdigest(text)}.safetensors"
    version = _version(setting, 0)
    if path.is_file():
        return Weights(_load(path), version, f"its warm start ({path})")
    learner = Learner(policy, config, tokenizer, setting.base)
    learner.warm_start(
        demonstrations(setting.tasks, setting.base), lambda step, of, _: report(step, of)
    )
    weights = dict(named_weights(learner.model))
    kept.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    learner_files.write_tensors(weights, fresh)
    fresh.replace(path)
    return Weights(_arrays(weights), version, f"its warm start (kept in {path})")


def _version(setting: Setting, number: int) -> Version:
    return Version(setting.policy_name, 0, number)


def _load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return _arrays(load_file(path))
    except (OSError, SafetensorError) as error:
        there = listed(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else "none"
        raise CheckpointError(
            f"{path} does not read: {error} (files there: {there}). If its run goes on, the "
            "checkpoint may just have been replaced: try again"
        ) from None


def _arrays(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, weight in weights.items():
        there = weight.detach().cpu().contiguous()
        bits = there.view(torch.uint16) if there.dtype == torch.bfloat16 else there
        found[name] = bits.numpy()
    return found
