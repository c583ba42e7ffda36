"""Log-probabilities of given tokens, written down by the same decode step that writes answers.

So a canary that compares them with the trainer's tests what tokens are drawn from, not another way
through the model.

Knows the decoder and its cache. Called by the torch engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from realnet.roles.generator.decoder import Decoder
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.messages import Floats, Ints


def score(decoder: Decoder, cache: KVCache, sequences: Sequence[Ints]) -> list[Floats]:
    """Return log pi(ids[t] | ids[:t]) for t >= 1 of each sequence. `cache` has a row for each."""
    device = cache.device
    longest = max(len(ids) for ids in sequences)
    padded = np.zeros((len(sequences), longest), np.int64)
    for line, ids in zip(padded, sequences, strict=True):
        line[: len(ids)] = ids
    tokens = torch.from_numpy(padded).to(device)
    columns = []
    for step in range(longest - 1):
        positions = torch.full((len(sequences),), step, device=device)
        logits = decoder.decode(cache, tokens[:, step], positions, step + 1)
        columns.append(logits.log_softmax(-1).gather(1, tokens[:, step + 1, None])[:, 0])
    scored = torch.stack(columns, 1).cpu().numpy()
    return [row[: len(ids) - 1] for row, ids in zip(scored, sequences, strict=True)]
