"""Optimizers whose state is named tensors: AdamW with fp32 copies of coarse weights, and Muon.

Knows parameters and gradients, not losses or models. Called by the learner and its warm start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from realnet.errors import CheckpointError

Named = list[tuple[str, torch.Tensor]]


class AdamW:
    """AdamW over named parameters. Parameters that are not fp32 are updated as fp32 copies.

    `collect()` takes the gradients of a micro-batch, `update()` applies what was collected.
    """

    def __init__(
        self, weights: Named, lr: float, betas: tuple[float, float], epsilon: float, decay: float
    ) -> None:
        self.weights = weights
        self.masters: Named = [(n, p if _fine(p) else _copy(p)) for n, p in weights]
        self.inner = torch.optim.AdamW(
            [m for _, m in self.masters], lr, betas, epsilon, decay, foreach=False, fused=True
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return float(self.inner.param_groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = value

    def collect(self) -> None:
        """Add up in fp32 what the last backward pass left in coarse parameters."""
        for (_, weight), (_, master) in zip(self.weights, self.masters, strict=True):
            if master is weight or weight.grad is None:
                continue
            fine = weight.grad.float()
            master.grad = fine if master.grad is None else master.grad.add_(fine)
            weight.grad = None

    def clip(self, bound: float) -> float:
        """Scale the collected gradients to norm `bound` (0: no bound); return the norm before."""
        norm = torch.nn.utils.clip_grad_norm_(
            [m for _, m in self.masters], bound if bound > 0.0 else float("inf")
        )
        return float(norm)

    @torch.no_grad()
    def update(self) -> None:
        """Apply the collected gradients and forget them."""
        self.inner.step()
        self.forget()
        self._write_back()

    def forget(self) -> None:
        """Drop the collected gradients."""
        for (_, weight), (_, master) in zip(self.weights, self.masters, strict=True):
            weight.grad = master.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """Return moments, step counts and fp32 copies by name. The tensors are the live ones."""
        tensors: dict[str, torch.Tensor] = {}
        for (name, weight), (_, master) in zip(self.weights, self.masters, strict=True):
            if master is not weight:
                tensors[f"master/{name}"] = master.detach()
            for key, value in self.inner.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over a `state()`, weights being loaded already. Raises CheckpointError."""
        self.inner.state.clear()
        for (name, weight), (_, master) in zip(self.weights, self.masters, strict=True):
            if master is not weight:
                master.copy_(_of(tensors, f"master/{name}", master))
            if f"step/{name}" not in tensors:
                continue
            self.inner.state[master] = {
                "step": tensors[f"step/{name}"].to(master.device, copy=True),
                "exp_avg": _of(tensors, f"exp_avg/{name}", master).to(master, copy=True),
                "exp_avg_sq": _of(tensors, f"exp_avg_sq/{name}", master).to(master, copy=True),
            }
        self.forget()

    def begin_anew(self) -> None:
        """Forget all moments, as if no update had been made."""
        self.inner.state.clear()
        self.refresh()
        self.forget()

    def refresh(self) -> None:
        """Take fp32 copies again after somebody else wrote the weights."""
        for (_, weight), (_, master) in zip(self.weights, self.masters, strict=True):
            if master is not weight:
                master.data.copy_(weight.data)

    def _write_back(self) -> None:
        for (_, weight), (_, master) in zip(self.weights, self.masters, strict=True):
            if master is not weight:
                weight.copy_(master)


class Muon:
    """Momentum whose update is made orthogonal, for the matrices inside a model's blocks.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers"; Nesterov momentum, five
    Newton-Schulz iterations, update scaled by sqrt(max(1, rows / columns)). Matrices of one shape
    are worked on together, since small ones are bound by the count of operations.
    """

    def __init__(self, matrices: Iterable[torch.Tensor], momentum: float) -> None:
        self.momentum = momentum
        self.shapes: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for matrix in matrices:
            self.shapes.setdefault(tuple(matrix.shape), []).append(matrix)
        self.memory = {
            shape: torch.zeros(len(alike), *shape, device=alike[0].device)
            for shape, alike in self.shapes.items()
        }

    @torch.no_grad()
    def update(self, lr: float) -> None:
        """Apply the gradients in `.grad` and forget them."""
        for (rows, columns), alike in self.shapes.items():
            memory = self.memory[rows, columns]
            grads = torch.stack(
                [torch.zeros_like(m) if m.grad is None else m.grad for m in alike]
            ).float()
            memory.lerp_(grads, 1.0 - self.momentum)
            turned = orthogonal(grads.lerp_(memory, self.momentum))
            scale = lr * max(1.0, rows / columns) ** 0.5
            for matrix, change in zip(alike, turned, strict=True):
                matrix.sub_(change.to(matrix.dtype), alpha=scale)
                matrix.grad = None


def orthogonal(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Return nearly orthogonal matrices of the same row and column spaces. Shapes: [n, r, c].

    Newton-Schulz with the quintic of Jordan et al.: singular values end between about 0.7 and 1.2.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def _fine(weight: torch.Tensor) -> bool:
    return weight.dtype in (torch.float32, torch.float64)


def _copy(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().float().clone().requires_grad_(True)


def _of(tensors: Mapping[str, torch.Tensor], name: str, like: torch.Tensor) -> torch.Tensor:
    """Return a named tensor of the shape of `like`, or raise CheckpointError."""
    found = tensors.get(name)
    if found is None or found.shape != like.shape:
        shape = "is missing" if found is None else f"has shape {tuple(found.shape)}"
        raise CheckpointError(
            f"optimizer state: {name} {shape}, this model needs {tuple(like.shape)}: the "
            "checkpoint is of another model or optimizer; resume with the topology that wrote it"
        )
    return found
