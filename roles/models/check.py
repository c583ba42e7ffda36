"""Whether a policy's table describes a model that can be built, before anything is built.

Reads a model's config, its tokenizer and the headers of its weights, without torch, so that
`realnet check` stays quick. Knows nothing of roles. Called by the trainer's and the generator's
`check`.
"""

from __future__ import annotations

from pathlib import Path

from realnet.errors import ConfigError
from realnet.roles.checkpoints.meta import check_tokens
from realnet.roles.checkpoints.origin import RUN
from realnet.roles.models.reference import (
    NEW,
    described,
    load_tokenizer,
    model_folder,
    origin_of,
)
from realnet.roles.models.shape import shape_of
from realnet.roles.models.weight_files import check_weight_files
from realnet.roles.tables import Policy


def check_policy(policy: Policy, base: Path) -> None:
    """Raise ConfigError, one line a mistake, unless model, tokenizer and lengths fit together."""
    problems: list[str] = []
    vocab_size = 0
    if policy.model.startswith(RUN):
        origin = origin_of(policy, base)
        check_tokens(origin.meta, load_tokenizer(policy, base).digest(), origin.found.folder)
        policy = described(policy, base)
    try:
        vocab_size = load_tokenizer(policy, base).vocab_size
    except ConfigError as error:
        problems.append(str(error))
    try:
        shape = shape_of(policy, vocab_size, base)
        if not policy.model.startswith(NEW):
            _check_folder(model_folder(policy, base), shape.vocab_size, vocab_size)
        if policy.context > shape.max_positions > 0:
            problems.append(
                f"[policy].context = {policy.context}, but the model knows "
                f"{shape.max_positions} positions: lower [policy].context"
            )
    except ConfigError as error:
        problems.append(str(error))
    if policy.max_tokens >= policy.context:
        problems.append(
            f"[policy].max_tokens = {policy.max_tokens} leaves no room for a prompt in "
            f"[policy].context = {policy.context}: lower the one or raise the other"
        )
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _check_folder(folder: Path, embedded: int, vocab_size: int) -> None:
    check_weight_files(folder)
    if embedded < vocab_size:
        raise ConfigError(
            f"[policy].model: {folder} embeds {embedded} tokens, but the tokenizer has "
            f"{vocab_size}: they do not belong together"
        )
