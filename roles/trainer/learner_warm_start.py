"""The warm start: supervised training on demonstrations, before there is a policy to improve.

Muon moves the matrices inside the blocks, AdamW everything else; rates rise, hold, and fall to
almost nothing. The loss is the mean over response tokens, the stop token included.

Knows models and texts, not rewards or records. Called by the learner.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.trainer.learner_config import NonFinite, WarmStart
from realnet.roles.trainer.learner_optimizers import AdamW, Muon, Named
from realnet.roles.trainer.learner_part import Row
from realnet.roles.trainer.learner_pass import Scorer

Demos = Callable[[int, float], tuple[str, str]]
Report = Callable[[int, int, dict[str, float]], None]


def rate(step: int, config: WarmStart) -> float:
    """Return the factor of the learning rates at update `step`, in 0..1."""
    if step < config.warm_up:
        return (step + 1) / (config.warm_up + 1)
    held = config.hold * config.steps
    if step < held:
        return 1.0
    return (config.steps - step) / max(config.steps - held, 1.0)


def warm_start(
    scorer: Scorer,
    weights: Named,
    config: WarmStart,
    tokenizer: Tokenizer,
    demos: Demos,
    report: Report,
) -> None:
    """Train the model of `scorer` on `config.steps` batches of demonstrations.

    `demos(k, progress)` gives the k-th (prompt, response), templated as the policy will see them.
    `report(step, of, {"loss": …})` is called after every update. Raises NonFinite.
    """
    model = scorer.model
    ends = {id(e.weight) for e in (model.get_input_embeddings(), model.get_output_embeddings())}
    inner = [(n, w) for n, w in weights if w.ndim == 2 and id(w) not in ends]
    names = {n for n, _ in inner}
    muon = Muon([w for _, w in inner], config.momentum)
    adam = AdamW([(n, w) for n, w in weights if n not in names], config.lr, config.betas, 1e-8, 0.0)
    for step in range(config.steps):
        first, progress = step * config.batch, step / config.steps
        rows = [_row(tokenizer, *demos(first + i, progress)) for i in range(config.batch)]
        loss = -scorer.logprobs(rows, 1.0).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        every = [w for _, w in weights if w.grad is not None]
        bound = config.grad_clip if config.grad_clip > 0.0 else float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(every, bound))
        if not np.isfinite([value, norm]).all():
            for _, weight in weights:
                weight.grad = None
            raise NonFinite(
                f"warm start, update {step}: loss {value}, gradient norm {norm}: lower "
                "warm_start.lr and warm_start.muon_lr"
            )
        factor = rate(step, config)
        for group in adam.inner.param_groups:
            group["lr"] = config.lr * factor
        muon.update(config.muon_lr * factor)
        adam.collect()
        adam.update()
        report(step + 1, config.steps, {"loss": value, "grad_norm": norm})


def _row(tokenizer: Tokenizer, prompt: str, response: str) -> Row:
    """Return token ids and the positions of the response in them, stop token last."""
    head = tokenizer.encode(prompt)
    ids = np.array([*head, *tokenizer.encode(response), tokenizer.eos_id], dtype=np.int64)
    return ids, np.arange(max(len(head), 1), len(ids))
