"""A model cut by FSDP2 over a mesh, its weights dealt out by rank 0.

Rank 0 hands in a real model on the CPU; the others hand in one without memory (`build_empty`), so
that a host holds one whole copy and not one a rank. Each decoder block is a unit of its own, the
rest is another. Shards are fp32 whatever the policy's dtype is: they are the fine copies that the
optimizer moves; blocks compute in bf16 where the tables say so, and gradients are added in fp32.

Knows models and meshes, not losses or optimizers. Called by `shard.py`, on every rank.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from realnet.roles.models.blocks import decoder_blocks
from realnet.roles.trainer.learner_pass import FORWARD, logits_at


def cut(model: Any, mesh: DeviceMesh, device: torch.device, *, bf16: bool) -> Any:
    """Cut a model in place and deal out rank 0's weights; return it. Every rank calls it."""
    first = mesh.get_local_rank() == 0
    whole = {name: weight.detach() for name, weight in model.named_parameters()} if first else {}
    blocks = decoder_blocks(model)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
    )
    memo: dict[int, torch.nn.Parameter] = {}
    for block in blocks:
        _materialise(block.modules(), device, memo)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    inside = {id(m) for block in blocks for m in block.modules()}
    _materialise((m for m in model.modules() if id(m) not in inside), device, memo)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    setattr(model, FORWARD, types.MethodType(logits_at, model))
    register_fsdp_forward_method(model, FORWARD)
    _deal(model, whole, device, first=first)
    return model


def _materialise(
    modules: Iterable[torch.nn.Module], device: torch.device, memo: dict[int, torch.nn.Parameter]
) -> None:
    """Give memory to what has none; weights that are one (a tied head) stay one."""
    for module in modules:
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta:
                if id(weight) not in memo:
                    fresh = torch.empty_like(weight, device=device)
                    memo[id(weight)] = torch.nn.Parameter(fresh, weight.requires_grad)
                module._parameters[name] = memo[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                empty = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer
                module._buffers[name] = empty.to(device)


@torch.no_grad()
def _deal(model: Any, whole: dict[str, torch.Tensor], device: torch.device, *, first: bool) -> None:
    for name, weight in model.named_parameters():
        full = (
            whole.pop(name).to(device, weight.dtype)
            if first
            else torch.empty(weight.shape, dtype=weight.dtype, device=device)
        )
        dealt = distribute_tensor(full, weight.device_mesh, weight.placements)
        weight.to_local().copy_(dealt.to_local())
    for _, buffer in sorted(model.named_buffers()):
        dist.broadcast(buffer, 0)


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a cut tensor in one piece, on every rank. Every rank calls it, in one order."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def place(tensor: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where this rank's slice of a cut tensor begins in the whole one, and its size."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim(), tuple(tensor.shape)
    size, start = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(start), tuple(size)
