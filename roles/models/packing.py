"""How a row of sequences laid end to end is taken apart and put together again.

Sequences that begin alike may share their beginning: it lies in the row once, with the first of
them. All that a causal model computes there is the same for each, so all layers but attention run
once for it, forwards and backwards.

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
    `starts` [sequences + 1] (int32) are where each sequence's own tokens begin, and the row's end;
    `longest` is the longest sequence. `kind` is how attention is computed over it, and `mask` what
    that kind made for all layers of a pass. Only "sdpa" can do with shared beginnings: the others
    know a sequence by its `starts`.
    """

    positions: torch.Tensor
    gather: tuple[torch.Tensor, ...]
    back: torch.Tensor
    starts: torch.Tensor
    runs: torch.Tensor
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
            runs=self.runs.to(device),
        )


class Beginning(NamedTuple):
    """A sequence's first `length` tokens are those of sequence `of`, which is not after it.

    A sequence with a beginning of its own has length 0 here.
    """

    of: int
    length: int


def pack(lengths: Sequence[int], beginnings: Sequence[Beginning] | None = None) -> Packing:
    """Return the packing of sequences of these lengths (each 1 or more), in this order.

    With `beginnings`, one for each, what a sequence shares is not laid again: the row has its own
    tokens only. Who is shared from has a beginning of its own.
    """
    sizes = torch.tensor(lengths, dtype=torch.int64)
    of, shared = torch.arange(len(sizes)), torch.zeros_like(sizes)
    if beginnings is not None:
        of, shared = torch.tensor(beginnings, dtype=torch.int64).unbind(1)
    ends = torch.cumsum(sizes - shared, 0)
    starts = ends - (sizes - shared)
    gather: list[torch.Tensor] = []
    back = torch.empty(int(ends[-1]), dtype=torch.int64)
    before = 0
    for members in _alike(lengths):
        which = torch.tensor(members)
        steps = torch.arange(lengths[members[0]])
        real = steps < sizes[which][:, None]
        own = real & (steps >= shared[which][:, None])
        start = torch.where(own, (starts - shared)[which][:, None], starts[of[which]][:, None])
        # what stands behind a sequence's end is never looked back at: any place will do
        index = torch.where(real, start + steps, 0)
        back[index[own]] = before + torch.arange(real.numel()).view_as(real)[own]
        gather.append(index)
        before += real.numel()
    positions = torch.arange(len(back)) - torch.repeat_interleave(starts - shared, sizes - shared)
    borders = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int()
    runs = torch.stack([starts[of], shared, starts, sizes - shared], 1).int()
    return Packing(positions[None], tuple(gather), back, borders, runs, max(lengths))


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
