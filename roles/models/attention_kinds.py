"""The ways to compute causal attention over sequences that lie end to end in one row.

    sdpa    sequences are gathered into small padded batches of similar lengths, and torch's own
            attention runs there: no mask, so the quick kernels of CPU and GPU do it
    flex    torch's flex_attention with a mask of blocks, compiled: nothing is gathered, blocks of
            other sequences are skipped; on GPUs (it has no backward pass on a CPU)
    flash   one kernel for rows of sequences of different lengths: flash-attn, or torch's own; on
            GPUs, in bf16

All three give the same numbers but for the order of sums. "auto" is flash where it can be had, else
sdpa.

Knows tensors and packings; knows nothing of models. Called by `packed_attention.py`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Literal

import torch

from realnet.errors import ConfigError, RealnetError
from realnet.roles.models.packing import Packing

Kind = Literal["sdpa", "flex", "flash"]
Asked = Literal["auto", "sdpa", "flex", "flash"]
_KEY = "[roles.trainer].attention"


def choose(asked: Asked, device: str, *, bf16: bool) -> Kind:
    """Return how attention is computed on a device ("cpu", "cuda"), in bf16 or not.

    Raises ConfigError for what cannot be had there.
    """
    if asked == "sdpa":
        return "sdpa"
    if asked == "auto":
        flash = device == "cuda" and bf16 and not _too_old() and flash_function()
        return "flash" if flash else "sdpa"
    if device == "cpu":
        raise ConfigError(f'{_KEY} = "{asked}" needs a GPU, and the model is on the CPU: {_ELSE}')
    if asked == "flash" and not bf16:
        raise ConfigError(f'{_KEY} = "flash" computes in bf16, and this model in fp32: {_ELSE}')
    if asked == "flash" and (gpu := _too_old()):
        raise ConfigError(f'{_KEY} = "flash": its kernels are for newer GPUs than {gpu}: {_ELSE}')
    if asked == "flash" and flash_function() is None:
        raise ConfigError(
            f'{_KEY} = "flash": neither flash-attn is installed nor has this torch '
            f"({torch.__version__}) a kernel of its own (torch.nn.attention.varlen): {_ELSE}"
        )
    return asked


_ELSE = 'write "auto", or "sdpa"'
_FLASH_FROM = (8, 0)  # compute capability: Ampere


def _too_old() -> str:
    """Return what GPU this is when it cannot run the kernels of flash; "" when it can."""
    if not torch.cuda.is_available():
        return ""  # nothing says what it will be
    found = torch.cuda.get_device_capability()
    if found >= _FLASH_FROM:
        return ""
    return f"{torch.cuda.get_device_name()} (compute capability {found[0]}.{found[1]})"


def prepared(packing: Packing, device: torch.device, kind: Kind) -> Packing:
    """Return a packing on a device, with what one pass of this kind needs."""
    there = packing.to(device)._replace(kind=kind)
    return there._replace(mask=_blocks(there)) if kind == "flex" else there


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scale: Any
) -> torch.Tensor:
    """Return attention over a row. Shapes: [T, heads, d], keys and values perhaps fewer heads."""
    how = {"sdpa": _sdpa, "flex": _flex, "flash": _flash}.get(packing.kind)
    if how is None:
        raise RealnetError(f"attention of kind {packing.kind!r} is not known")
    return how(query, key, value, packing, scale)


# ---------------------------------------------------------------- sdpa


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scale: Any
) -> torch.Tensor:
    outputs: list[torch.Tensor] = []
    for index in packing.gather:
        n, width = index.shape
        flat = index.flatten()
        q, k, v = (
            row.index_select(0, flat).view(n, width, *row.shape[1:]).transpose(1, 2)
            for row in (query, key, value)
        )
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(out.transpose(1, 2).reshape(n * width, query.shape[1], v.shape[-1]))
    together = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return together.index_select(0, packing.back)


# ---------------------------------------------------------------- flex


def _blocks(packing: Packing) -> Any:
    """Return which blocks of a row see which: those with a token of one sequence, not later."""
    from torch.nn.attention.flex_attention import create_block_mask

    length = int(packing.positions.shape[1])
    sizes = packing.starts.diff().long()
    whose = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)

    def sees(batch: Any, head: Any, at: Any, back: Any) -> Any:
        return (whose[at] == whose[back]) & (at >= back)

    return create_block_mask(sees, None, None, length, length, device=str(sizes.device))


@functools.cache
def _flex_function(device: str) -> Callable[..., Any]:
    """Return flex_attention, compiled; not on a CPU, where it only serves to be compared."""
    from torch.nn.attention.flex_attention import flex_attention

    function: Callable[..., Any] = flex_attention
    return function if device == "cpu" else torch.compile(function)


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scale: Any
) -> torch.Tensor:
    q, k, v = (row.transpose(0, 1)[None] for row in (query, key, value))
    out = _flex_function(query.device.type)(
        q, k, v, block_mask=packing.mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    found: torch.Tensor = out[0].transpose(0, 1)
    return found


# ---------------------------------------------------------------- flash


@functools.cache
def flash_function() -> Callable[..., Any] | None:
    """Return a kernel f(query, key, value, starts, longest, scale) for rows; None without one."""
    try:
        theirs = importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, AttributeError, OSError):  # not there, or built for another torch
        return _own_flash()

    def call(q: Any, k: Any, v: Any, starts: Any, longest: int, scale: Any) -> Any:
        return theirs(
            *(q, k, v, starts, starts, longest, longest), softmax_scale=scale, causal=True
        )

    return call


def _own_flash() -> Callable[..., Any] | None:
    try:
        ours = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None

    def call(q: Any, k: Any, v: Any, starts: Any, longest: int, scale: Any) -> Any:
        return ours(
            *(q, k, v, starts, starts, longest, longest),
            scale=scale,
            window_size=(-1, 0),  # causal
            enable_gqa=q.shape[1] != k.shape[1],
        )

    return call


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scale: Any
) -> torch.Tensor:
    call = flash_function()
    if call is None:
        raise RealnetError("attention by flash was chosen where there is no kernel for it")
    # Under autocast what was turned by rope may be fp32 again; values come from a matrix product.
    q, k = query.to(value.dtype), key.to(value.dtype)
    out: torch.Tensor = call(q, k, value, packing.starts, packing.longest, scale)
    return out
