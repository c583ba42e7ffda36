"""Keys and values of the tokens seen so far: one static tensor, a row for each running request.

Knows only its layout. Called by `decoder` (reads, writes) and by `torch_engine` (moves rows).
"""

from __future__ import annotations

import torch

from realnet.roles.models.shape import Shape


class KVCache:
    """Layout: [layer, row, position, 2 x kv head (keys, then values), head_dim].

    Positions lie beside each other within a row, so that moving a row is one contiguous copy, and
    writing a token of each row is one `index_copy_`. Rows in use are the first ones, so that
    attention reads a view. It starts as zeros: what no token wrote is masked, but NaN times a zero
    probability would be NaN.
    """

    def __init__(
        self, shape: Shape, rows: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads = 2 * shape.num_key_value_heads
        size = (shape.num_hidden_layers, rows, context, heads, shape.head_dim)
        self.rows = rows
        self.context = context
        self.kv_heads = shape.num_key_value_heads
        self.data = torch.zeros(size, dtype=dtype, device=device)
        self.starts = torch.arange(rows, device=device) * context  # of each row, in `_flat`
        self._flat = self.data.view(shape.num_hidden_layers, rows * context, -1)

    def write_one(self, layer: int, where: torch.Tensor, kv: torch.Tensor) -> None:
        """Write one token for each row. `where` [n] is `starts` plus the position."""
        self._flat[layer].index_copy_(0, where, kv.reshape(kv.shape[0], -1))

    def write_many(self, layer: int, rows: torch.Tensor, start: int, kv: torch.Tensor) -> None:
        """Write `kv` [m, T, 2 x kv head, head_dim] at positions start .. start + T of `rows`."""
        self.data[layer, rows, start : start + kv.shape[1]] = kv

    def first(self, layer: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of keys and values of the first rows: [rows, kv head, length, head_dim]."""
        return self._split(self.data[layer, :rows, :length])

    def some(
        self, layer: int, rows: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of keys and values of `rows`: [m, kv head, length, head_dim]."""
        return self._split(self.data[layer, rows, :length])

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make the first `length` positions of `target` those of `source`."""
        self.data[:, target, :length] = self.data[:, source, :length]

    def _split(self, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads = both.transpose(1, 2)
        return heads[:, : self.kv_heads], heads[:, self.kv_heads :]
