"""The blocks of a decoder: what is cut, and recomputed, as one unit.

Knows transformers' models only by their module lists. Called by the learner and its back ends.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from realnet.errors import ConfigError


def decoder_blocks(model: Any) -> list[torch.nn.Module]:
    """Return the decoder's blocks, first to last: the longest list of modules of one class.

    Raises ConfigError when there is none.
    """
    best: list[torch.nn.Module] = []
    for module in model.modules():
        if not isinstance(module, torch.nn.ModuleList) or len(module) <= len(best):
            continue
        if len({type(m) for m in module}) == 1:
            best = list(module)
    if not best:
        raise ConfigError(
            f"[policy].model: {type(model).__name__} has no list of alike blocks, so it can "
            'neither be cut over ranks nor recomputed by blocks: set backend = "plain" and '
            'activations = "keep" in the trainer\'s table'
        )
    return best


def recompute_blocks(model: Any) -> None:
    """Let each block forget its activations, and compute them again in the backward pass.

    Costs one more forward pass; keeps one hidden state a token and block. Call it before the model
    is cut, so that weights are there when a block is computed again.
    """
    for block in decoder_blocks(model):
        # A class and not a bound function: a copy of the model must run its own weights.
        block.__class__ = _recomputing(type(block))


_KINDS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}  # one more for each


def _recomputing(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Return a class of blocks like `kind` that forget what is between their ends."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(kind.forward, self)
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        # no dropout anywhere, so there is no random state to bring back
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    if kind not in _KINDS:
        _KINDS[kind] = type(f"Recomputing{kind.__name__}", (kind,), {"forward": forward})
    return _KINDS[kind]
