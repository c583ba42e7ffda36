"""Forward passes: the log-probabilities of chosen tokens of some sequences under a model.

Sequences are right-padded. Under a causal model no token sees what stands after it, so padding
needs no mask. Logits are made only where a token is asked for: with a large vocabulary they are
most of the memory of a step.

Knows models and token ids, not rewards or records. Called by the learner and its warm start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ids = npt.NDArray[np.int64]


def token_logprobs(model: Any, rows: Sequence[tuple[Ids, Ids]], temperature: float) -> torch.Tensor:
    """Return log pi(ids[t] | ids[:t]) at the positions asked for, row after row. Shape: [sum T].

    Each row is (ids [L], where [T]), where ascending and >= 1. The distribution is that of
    logits / temperature, in fp32.
    """
    width = max(int(where[-1]) for _, where in rows)
    padded = np.zeros((len(rows), width), dtype=np.int64)
    for line, (ids, where) in zip(padded, rows, strict=True):
        needed = int(where[-1])
        line[:needed] = ids[:needed]
    at = np.concatenate([i * width + where - 1 for i, (_, where) in enumerate(rows)])
    wanted = np.concatenate([ids[where] for ids, where in rows])
    device = next(model.parameters()).device
    logits = _logits_at(model, torch.from_numpy(padded).to(device), torch.from_numpy(at).to(device))
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    return -torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(wanted).to(device), reduction="none"
    )


def _logits_at(model: Any, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Return logits [T, vocabulary] at flat positions `at` [T] of `ids` [rows, width]."""
    config = model.config
    if getattr(config, "final_logit_softcapping", None) or getattr(config, "logit_scale", None):
        whole = model(input_ids=ids, use_cache=False).logits  # the head does more than multiply
        return torch.Tensor(whole.flatten(0, 1)[at])
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    chosen = hidden.flatten(0, 1)[at]
    head = model.get_output_embeddings()
    return torch.nn.functional.linear(chosen, head.weight, head.bias)
