"""Prefill: the keys and values of many prefixes of different lengths, in few forward passes.

Knows how to group, pad, chunk and share; knows nothing of requests. Called by `torch_engine`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from realnet.roles.generator.decoder import Decoder
from realnet.roles.generator.kv_cache import KVCache
from realnet.roles.messages import Ints


def prefill(
    decoder: Decoder,
    cache: KVCache,
    prefixes: Mapping[int, Ints],
    budget: int,
    device: torch.device,
) -> None:
    """Fill the rows of `prefixes` (row -> token ids).

    Equal prefixes, such as a group's prompt, are run once and copied. No forward pass holds more
    than `budget` tokens.
    """
    source: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for row, ids in prefixes.items():
        first = source.setdefault(ids.tobytes(), row)
        if first != row:
            copies.append((first, row))
    rows = [row for row in source.values() if len(prefixes[row])]
    for part in batches({row: len(prefixes[row]) for row in rows}, budget):
        width = max(len(prefixes[row]) for row in part)
        padded = np.zeros((len(part), width), np.int64)
        for line, row in enumerate(part):
            padded[line, : len(prefixes[row])] = prefixes[row]
        tokens = torch.from_numpy(padded).to(device)
        where = torch.tensor(part, device=device)
        chunk = max(1, budget // len(part))
        for start in range(0, width, chunk):
            decoder.prefill(cache, where, tokens[:, start : start + chunk], start)
    longest = max((len(prefixes[row]) for _, row in copies), default=0)
    cache.copy_rows([first for first, _ in copies], [row for _, row in copies], longest)


def batches(lengths: Mapping[int, int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that none pads to more than `budget` tokens.

    A row longer than the budget is a group of its own, to be run in chunks.
    """
    groups: list[list[int]] = []
    for row in sorted(lengths, key=lambda row: -lengths[row]):
        # Sorted by falling length: a group's first row is its widest.
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
