"""The policy loss, token by token, from a ratio and an advantage.

All functions work on tensors of one shape, usually flat [T]. `clip` = (low, high) bounds the ratio
to [1 - low, 1 + high]. Each returns (loss, where a bound took the gradient away or held it).

Knows nothing of models, sequences or how the mean is taken. Called by `objective`.
"""

from __future__ import annotations

import torch

Clip = tuple[float, float]
Terms = tuple[torch.Tensor, torch.Tensor]


def clipped(
    ratio: torch.Tensor, advantage: torch.Tensor, clip: Clip, dual: float | None = None
) -> Terms:
    """Return (-min(u A, clip(u) A), where the bound took the gradient away). Shapes: all [T].

    Source: PPO (arXiv 1707.06347), eq. 7; separate bounds: DAPO (arXiv 2503.14476), eq. 10. With
    `dual` = c > 1 the loss of a token with A < 0 is at most c |A|: dual clip (arXiv 1912.09729),
    eq. 5.
    """
    bounded = ratio.clamp(1.0 - clip[0], 1.0 + clip[1])
    free, held = -ratio * advantage, -bounded * advantage
    loss, met = torch.maximum(free, held), held > free
    if dual is not None:
        most = -dual * advantage
        over = (advantage < 0.0) & (loss > most)
        loss, met = torch.where(over, most, loss), met | over
    return loss, met.detach()


def cispo(ratio: torch.Tensor, logp: torch.Tensor, advantage: torch.Tensor, clip: Clip) -> Terms:
    """Return (-sg[clip(u)] A log theta, where the ratio met a bound). Shapes: all [T].

    The bound limits the weight of a token, and never takes its gradient away. low = 1: no lower
    bound. Source: MiniMax-M1 (arXiv 2506.13585), eq. 4-5.
    """
    fixed = ratio.detach()
    bounded = fixed.clamp(1.0 - clip[0], 1.0 + clip[1])
    return -bounded * advantage * logp, bounded != fixed


def unclipped(ratio: torch.Tensor, advantage: torch.Tensor) -> Terms:
    """Return (-u A, nowhere): REINFORCE when u = theta / sg[theta]. Shapes: all [T]."""
    return -ratio * advantage, torch.zeros_like(ratio, dtype=torch.bool)


def kept_near(
    loss: torch.Tensor,
    met: torch.Tensor,
    log_moved: torch.Tensor,
    advantage: torch.Tensor,
    clip: Clip,
) -> Terms:
    """Return `loss` without the gradient of tokens that moved far enough since they were written.

    `log_moved` is log theta - log behave. Beyond [1 - low, 1 + high], a token that its advantage
    pushes further out keeps its loss and has no gradient; one that is pushed back keeps both. This
    is the stopping rule of PPO's bound (`clipped`), against the policy that wrote the token.
    """
    moved = torch.exp(log_moved.detach())
    far = ((advantage > 0.0) & (moved > 1.0 + clip[1])) | (
        (advantage < 0.0) & (moved < 1.0 - clip[0])
    )
    return torch.where(far, loss.detach(), loss), met | far
