"""Where `policy.model` and `policy.tokenizer` lead: a folder, or something new.

Knows the grammar of these two references; knows nothing of torch. Called by every role that reads
or writes text, and by `build` and `shape`.
"""

from __future__ import annotations

from pathlib import Path

from realnet.errors import ConfigError, nearest
from realnet.roles.hub import locate_model
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy

NEW = "new:"


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
