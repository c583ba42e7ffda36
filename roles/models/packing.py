"""How a row of sequences laid end to end is taken apart and put together again.

Knows lengths and places; knows nothing of models or kernels. Called by the learner's forward pass;
`attention_kinds.py` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

_ALIKE = 2  # lengths in one padded batch differ by less than this factor
_FEW_TOKENS = 256  # padding that is cheaper than one more batch


class Packing(NamedTuple):
    """A row of sequences.

    `positions` [1, T] count from 0 in each sequence. `gather` holds, for each padded batch, the
    places in the row [n, width]; `back` [T] the places of the row's tokens in all batches together.
    `starts` [sequences + 1] (int32) are where sequences begin, and the row's end; `longest` is the
    longest. `kind` is how attention is computed over it, and `mask` what that kind made for all
    layers of a pass.
    """

    positions: torch.Tensor
    gather: tuple[torch.Tensor, ...]
    back: torch.Tensor
    starts: torch.Tensor
    longest: int
    kind: str = "sdpa"
    mask: Any = None

    def to(self, device: torch.device) -> Packing:
        """Return the same on a device."""
        return self._replace(
            positions=self.positions.to(device),
            gather=tuple(index.to(device) for index in self.gather),
            back=self.back.to(device),
            starts=self.starts.to(device),
        )


def pack(lengths: Sequence[int]) -> Packing:
    """Return the packing of sequences of these lengths (each 1 or more), in this order."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    ends = torch.cumsum(sizes, 0)
    starts = ends - sizes
    gather: list[torch.Tensor] = []
    back = torch.empty(int(sizes.sum()), dtype=torch.int64)
    before = 0
    for members in _alike(lengths):
        which = torch.tensor(members)
        width = lengths[members[0]]
        steps = torch.arange(width)
        real = steps < sizes[which][:, None]
        # what stands behind a sequence's end is never looked back at: any place will do
        index = torch.where(real, starts[which][:, None] + steps, 0)
        back[index[real]] = before + torch.arange(real.numel()).view_as(real)[real]
        gather.append(index)
        before += real.numel()
    positions = torch.cat([torch.arange(length) for length in lengths])
    borders = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int()
    return Packing(positions[None], tuple(gather), back, borders, max(lengths))


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return positions in `lengths` in batches of similar lengths, longest first in each."""
    batches: list[list[int]] = []
    waste = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches:
            widest = lengths[batches[-1][0]]
            waste += widest - lengths[i]
            if lengths[i] * _ALIKE > widest or waste < _FEW_TOKENS:
                batches[-1].append(i)
                continue
        batches.append([i])
        waste = 0
    return batches
