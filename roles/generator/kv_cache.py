"""Keys and values of the tokens seen so far: one static tensor, a row for each running request.

Knows only its layout. Called by `decoder` (reads, writes) and by `torch_engine` (moves rows).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from realnet.roles.models.shape import Shape


class KVCache:
    """Layout: [layer, keys or values, row, kv head, position, head_dim].

    A head's positions lie beside each other: keys, or values, of the first rows are one batch of
    matrices, a view, whatever their length. Rows in use are the first ones. It starts as zeros:
    what no token wrote is masked, but NaN times a zero probability would be NaN.
    """

    def __init__(
        self, shape: Shape, rows: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        layers, heads, width = shape.num_hidden_layers, shape.num_key_value_heads, shape.head_dim
        self.rows = rows
        self.context = context
        self.device = device
        self.data = torch.zeros(layers, 2, rows, heads, context, width, dtype=dtype, device=device)
        self._flat = self.data.view(layers, -1, width)
        self._heads = heads
        # Of each layer: keys and values [row x kv head, position, head_dim].
        self._lines = [tuple(layer.flatten(1, 2).unbind()) for layer in self.data]
        starts = torch.arange(2 * rows * heads, device=device) * context
        self._starts = starts.view(2, rows, heads).transpose(0, 1).reshape(rows, -1).contiguous()

    def places(self, positions: torch.Tensor) -> torch.Tensor:
        """Return where tokens at `positions` [n] of the first n rows go, the same in any layer."""
        return (self._starts[: positions.shape[0]] + positions[:, None]).view(-1)

    def write_one(self, layer: int, places: torch.Tensor, kv: torch.Tensor) -> None:
        """Write one token for each row: keys, then values [n, 2 x kv head x head_dim]."""
        self._flat[layer].index_copy_(0, places, kv.reshape(places.shape[0], -1))

    def write_many(
        self, layer: int, rows: torch.Tensor, start: int, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Write [m, kv head, T, head_dim] at positions start .. start + T of `rows` [m]."""
        there = self.data[layer, :, :, :, start : start + keys.shape[2]]
        there[0][rows] = keys
        there[1][rows] = values

    def first(self, layer: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of keys and values of the first rows: [rows x kv head, length, head_dim]."""
        keys, values = self._lines[layer]
        lines = rows * self._heads
        return keys[:lines, :length], values[:lines, :length]

    def whole(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of keys and values of all rows: [row, kv head, position, head_dim]."""
        keys, values = self.data[layer].unbind()
        return keys, values

    def some(
        self, layer: int, rows: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of keys and values of `rows`: [m, kv head, length, head_dim]."""
        keys, values = self.data[layer, :, :, :, :length].unbind()
        return keys[rows], values[rows]

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Make the first `length` positions of `targets` those of `sources` (no row is both)."""
        there = self.data[:, :, :, :, :length]
        if len(sources) == 1:
            there[:, :, targets[0]] = there[:, :, sources[0]]
        elif sources:
            device = self.device
            from_, to = torch.tensor([sources, targets], device=device)
            there[:, :, to] = there[:, :, from_]
