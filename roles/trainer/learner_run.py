"""How a micro-batch is run: forward, loss of every token, backward.

Knows models, tensors and the rule, not samples or optimizers. Called by the learner, and by the
ranks of one that is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from realnet.roles.algorithms.objective import Tokens, token_loss
from realnet.roles.algorithms.presets import Rule
from realnet.roles.trainer.learner_part import Part
from realnet.roles.trainer.learner_pass import Scorer
from realnet.roles.trainer.learner_vitals import Vitals


def run_part(
    scorer: Scorer, rule: Rule, part: Part, vitals: Vitals, collect: Callable[[], None], times: int
) -> float:
    """Add a part's gradient to what is there; return its share of the loss.

    `collect` is called after the backward pass. The gradient is multiplied by `times`, for who
    will divide it again.
    """
    logp = scorer.logprobs(part.rows)
    tokens = _tokens(part, logp)
    terms = token_loss(rule, tokens)
    share = torch.from_numpy(part.share).to(logp)[tokens.owner]
    loss = (terms.loss * share).sum()
    (loss * times if times != 1 else loss).backward()  # type: ignore[no-untyped-call]
    collect()
    vitals.add(terms, tokens)
    return float(loss.detach())


def _tokens(part: Part, logp: torch.Tensor) -> Tokens:
    """Return a part's tokens as the objective wants them."""

    def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(logp)

    owner = np.repeat(np.arange(len(part.counts)), part.counts)
    return Tokens(
        logp=logp,
        behave=tensor(part.behave),
        advantage=tensor(part.advantage),
        owner=torch.from_numpy(owner).to(logp.device),
        answers=len(part.counts),
        age=tensor(part.ages),
        proximal=tensor(part.proximal) if len(part.proximal) else logp.detach(),
        reference=tensor(part.reference) if len(part.reference) else None,
    )
