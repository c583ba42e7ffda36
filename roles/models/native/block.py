"""A decoder's block as one operation: its forward and backward pass on the kernels.

    x -> norm -> q, k, v -> rope -> attention -> + x = middle -> norm -> SwiGLU -> + middle = y

A norm's weight is taken as a factor of the matrices that read the norm: these are small where there
are many tokens. The three matrices before attention are run as one, and so are gate and up.

Knows transformers' Llama and Qwen2 and packings. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from realnet.errors import ConfigError
from realnet.roles.models.blocks import decoder_blocks
from realnet.roles.models.native.library import LANES, Kernels, kernels
from realnet.roles.models.packing import Packing

_BLOCKS = ("LlamaDecoderLayer", "Qwen2DecoderLayer")
_READ = ("q_proj", "k_proj", "v_proj")


class _Form(NamedTuple):
    """How a block is run, besides its weights. Shapes: cos, sin [T, dim]."""

    kernels: Kernels
    cos: torch.Tensor
    sin: torch.Tensor
    packing: Packing
    heads: tuple[int, int]  # of queries, of keys
    epsilon: float


class _Run(torch.autograd.Function):
    """One block over a packed row. Shapes: x, y [T, hidden]."""

    @staticmethod
    def forward(
        ctx: Any, form: _Form, x: torch.Tensor, bias: torch.Tensor | None, *weights: torch.Tensor
    ) -> torch.Tensor:
        """`weights` are of norm, q, k, v, out, norm, gate, up, down; `bias` is of q, k, v."""
        norm_1, q, k, v, out, norm_2, gate, up, down = weights
        run, packing = form.kernels, form.packing
        read_1, read_2 = torch.cat([q, k, v]), torch.cat([gate, up])
        folded_1, folded_2 = read_1 * norm_1, read_2 * norm_2
        n_1, factor_1 = run.norm(x, form.epsilon)
        qkv = n_1 @ folded_1.t() if bias is None else torch.addmm(bias, n_1, folded_1.t())
        run.rope(qkv, form.cos, form.sin, sum(form.heads), 1.0)
        seen, peak = run.attend(qkv, packing.runs, packing.longest, form.heads)
        middle = torch.addmm(x, seen, out.t())
        n_2, factor_2 = run.norm(middle, form.epsilon)
        both = n_2 @ folded_2.t()
        inner = run.swiglu(both)
        ctx.form, ctx.biased = form, bias is not None
        ctx.save_for_backward(
            *(n_1, factor_1, qkv, seen, peak, n_2, factor_2, both, inner),
            *(norm_1, read_1, folded_1, out, norm_2, read_2, folded_2, down),
        )
        return torch.addmm(middle, inner, down.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of what `forward` was given; none of its form."""
        n_1, factor_1, qkv, seen, peak, n_2, factor_2, both, inner, *weights = ctx.saved_tensors
        norm_1, read_1, folded_1, out, norm_2, read_2, folded_2, down = weights
        form: _Form = ctx.form
        run, packing, dy = form.kernels, form.packing, dy.contiguous()
        dboth = run.swiglu_backward(both, dy @ down)
        dmiddle = run.norm_backward(dboth @ folded_2, n_2, factor_2, dy)
        asked = (packing.runs, packing.longest, form.heads, seen, peak)
        dqkv = run.attend_backward(qkv, *asked, dmiddle @ out)
        run.rope(dqkv, form.cos, form.sin, sum(form.heads), -1.0)
        dx = run.norm_backward(dqkv @ folded_1, n_1, factor_1, dmiddle)
        dnorm_1, dread_1 = _unfolded(dqkv.t() @ n_1, norm_1, read_1)
        dnorm_2, dread_2 = _unfolded(dboth.t() @ n_2, norm_2, read_2)
        size = len(out.t())
        dq, dk, dv = torch.split_with_sizes(dread_1, [size, *[(len(read_1) - size) // 2] * 2])
        dgate, dup = dread_2.chunk(2)
        dbias = dqkv.sum(0) if ctx.biased else None
        dout, ddown = dmiddle.t() @ seen, dy.t() @ inner
        return (None, dx, dbias, dnorm_1, dq, dk, dv, dout, dnorm_2, dgate, dup, ddown)


def _unfolded(
    gradient: torch.Tensor, norm: torch.Tensor, matrix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of a norm's weight and of a matrix, of that of their product."""
    return (gradient * matrix).sum(0), gradient * norm


def why_plain(model: Any) -> str:
    """Say why a model's blocks are run by torch's operations; "" if they need not be."""
    try:
        blocks = decoder_blocks(model)
    except ConfigError:
        return "it has no blocks"
    if type(blocks[0]).__name__ not in _BLOCKS:
        return f"a {type(blocks[0]).__name__} is not among {', '.join(_BLOCKS)}"
    config, weights = model.config, list(model.parameters())
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if any(w.device.type != "cpu" or w.dtype is not torch.float32 for w in weights):
        return "it is not fp32 on the CPU"
    if any(w.dim() > 1 and type(w) is not torch.nn.Parameter for w in weights):
        return "its weights are cut over ranks"
    first: Any = blocks[0]
    sizes = (first.self_attn.head_dim, config.hidden_size, config.intermediate_size)
    if any(size % LANES for size in sizes):
        return f"head, hidden and inner size are {sizes}: not multiples of {LANES}"
    if not all(_plain(block) for block in blocks):
        return "its blocks have adapters, or biases"
    if kernels() is None:  # asked last: only who could use them may insist on them
        return "the kernels were not built for this machine (make kernels)"
    return ""


def _plain(block: Any) -> bool:
    """Tell whether a block is matrices, and biases only before attention: all three or none."""
    attention, mlp = block.self_attn, block.mlp
    before = [getattr(attention, name) for name in _READ]
    free = [attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    linear = all(type(m) is torch.nn.Linear for m in (*before, *free))
    biases = {getattr(m, "bias", None) is not None for m in before}
    return linear and len(biases) == 1 and all(m.bias is None for m in free)


def use_native_blocks(model: Any) -> None:
    """Run packed rows of a model that nothing speaks against on the kernels, from now on."""
    for block in decoder_blocks(model):
        # A class and not a bound function: a copy of the model must run its own weights.
        block.__class__ = _native(type(block))


_KINDS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}  # one more for each


def _native(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Return a class of blocks like `kind` that run packed rows on the kernels."""

    def forward(self: Any, hidden_states: torch.Tensor, *rest: Any, **named: Any) -> Any:
        run, packing = kernels(), named.get("packing")
        if run is None or packing is None or hidden_states.dtype is not torch.float32:
            return kind.forward(self, hidden_states, *rest, **named)
        return _run(self, run, hidden_states, packing, *named["position_embeddings"])

    if kind not in _KINDS:
        _KINDS[kind] = type(f"Native{kind.__name__}", (kind,), {"forward": forward})
    return _KINDS[kind]


def _run(
    block: Any,
    run: Kernels,
    hidden: torch.Tensor,
    packing: Packing,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> torch.Tensor:
    """Run a block over a row. Shapes: hidden [1, T, hidden]; cos, sin [1, T, dim]."""
    attention, mlp = block.self_attn, block.mlp
    before = [getattr(attention, name) for name in _READ]
    sizes = [len(linear.weight) // attention.head_dim for linear in before]
    norm, epsilon = block.input_layernorm.weight, block.input_layernorm.variance_epsilon
    form = _Form(
        run, cos[0].contiguous(), sin[0].contiguous(), packing, (sizes[0], sizes[1]), epsilon
    )
    bias = None if before[0].bias is None else torch.cat([linear.bias for linear in before])
    weights = [norm, *(linear.weight for linear in before), attention.o_proj.weight]
    after = (block.post_attention_layernorm, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    weights += [module.weight for module in after]
    run_block: Callable[..., torch.Tensor] = _Run.apply
    return run_block(form, hidden[0].contiguous(), bias, *weights)[None]
