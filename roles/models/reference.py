"""Where `policy.model` and `policy.tokenizer` lead: a folder, something new, or another run.

Knows the grammar of these two references; knows nothing of torch. Called by every role that reads
or writes text, and by `build` and `shape`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from realnet.errors import CheckpointError, ConfigError, RunFolderError, nearest
from realnet.roles.checkpoints.origin import ONLY, RUN, Origin, locate, policy_in, run_folder, split
from realnet.roles.hub import locate_model
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.topology.plan import read_plan

NEW = "new:"


def described(policy: Policy, base: Path) -> Policy:
    """Return a policy whose `model` is new or a folder: another run's is what that began as.

    Its weights are not that run's, only its shape and tokenizer; paths in it are absolute. Raises
    ConfigError when there is no such run, and for a `shape` beside it.
    """
    while policy.model.startswith(RUN):  # that run may have begun as another's model, too
        if policy.shape:
            raise ConfigError(
                f'[policy].shape: "{policy.model}" has its own shape. Remove [policy].shape'
            )
        try:
            run = run_folder(split(policy.model.removeprefix(RUN))[0], base / "runs")
            plan = read_plan(run)
            there = policy_in(plan)
        except (RunFolderError, ConfigError) as error:
            raise ConfigError(f'[policy].model = "{policy.model}": {error}') from None
        model, tokenizer, inner = there.model, policy.tokenizer, Path(plan.base)
        if not model.startswith((NEW, RUN)):
            model = str(model_folder(there, inner).resolve())
        if tokenizer:
            tokenizer = _placed(tokenizer, base)
        elif there.tokenizer:
            tokenizer = _placed(there.tokenizer, inner)
        policy = msgspec.structs.replace(
            policy, model=model, shape=there.shape, tokenizer=tokenizer
        )
        base = inner
    return policy


def _placed(tokenizer: str, base: Path) -> str:
    """Return a tokenizer's reference as it can be read from anywhere."""
    if tokenizer.startswith(NEW):
        return tokenizer
    if tokenizer.startswith("hf:"):
        return str(locate_model(tokenizer, base, "[policy].tokenizer"))
    return str((base / tokenizer).expanduser().resolve())


def origin_of(policy: Policy, base: Path) -> Origin:
    """Return the checkpoint that "run:NAME@step" names. Raises ConfigError saying what there is."""
    text = policy.model.removeprefix(RUN)
    try:
        origin = locate(text, base / "runs", ONLY)
        origin.weights  # noqa: B018  there, or a complaint
    except (RunFolderError, CheckpointError, ConfigError) as error:
        raise ConfigError(f'[policy].model = "{policy.model}": {error}') from None
    return origin


def model_folder(policy: Policy, base: Path) -> Path:
    """Return the folder that `policy.model` names, relative to `base`.

    Raises ConfigError when it is no folder with a config.json.
    """
    reference = policy.model
    if reference.startswith("hf:"):
        return locate_model(reference, base, "[policy].model")
    folder = (base / reference).expanduser()
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f'[policy].model = "{reference}": {folder} {what}. Write a folder with a Hugging Face '
            f'model (config.json, model.safetensors), or "new:llama" for a new small one'
        )
    return folder


def load_tokenizer(policy: Policy, base: Path) -> Tokenizer:
    """Return the tokenizer of a policy: `policy.tokenizer`, or else its model's own."""
    policy = described(policy, base)
    reference = policy.tokenizer
    if not reference:
        if policy.model.startswith(NEW):
            raise ConfigError(
                f'[policy].tokenizer is missing: "{policy.model}" has none of its own. '
                f'Write "new:chars", "new:bytes" or a folder'
            )
        return Tokenizer.from_folder(model_folder(policy, base))
    if reference == "new:chars":
        return Tokenizer.new_chars()
    if reference == "new:bytes":
        return Tokenizer.new_bytes()
    if reference.startswith(NEW):
        raise ConfigError(
            f'[policy].tokenizer = "{reference}": no such kind.'
            f"{nearest(reference, ('new:chars', 'new:bytes'))} "
            f'There are "new:chars" and "new:bytes"'
        )
    if reference.startswith("hf:"):
        return Tokenizer.from_folder(locate_model(reference, base, "[policy].tokenizer"))
    return Tokenizer.from_folder((base / reference).expanduser())
