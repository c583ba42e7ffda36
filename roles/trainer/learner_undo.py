"""What a step that failed must give back: weights, optimizer and random state as before.

Knows tensors by name. Called by the learner.
"""

from __future__ import annotations

import torch

from realnet.roles.trainer.learner_optimizers import AdamW, Named


class Undo:
    """A copy of a learner's state, taken before a step.

    A step of one update checks before it applies anything, so it needs no copy of the weights.
    """

    def __init__(
        self, named: Named, optimizer: AdamW, rng: torch.Generator, *, updates: int
    ) -> None:
        self._named, self._optimizer, self._rng = named, optimizer, rng
        self._random = rng.get_state()
        self._weights: dict[str, torch.Tensor] = {}
        self._state: dict[str, torch.Tensor] = {}
        if updates > 1:
            self._weights = {n: w.detach().clone() for n, w in named}
            self._state = {n: t.clone() for n, t in optimizer.state().items()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Make everything as it was when this was made."""
        if self._weights:
            for name, weight in self._named:
                weight.copy_(self._weights[name])
            self._optimizer.restore(self._state)
        self._optimizer.forget()
        self._rng.set_state(self._random)
