"""What the published implementations, verl and trl, make of the inputs in published.json.

`make test-reference` installs both and checks that they still give the outputs in the file, to
1e-9; `--write` writes them anew. tests/roles/test_published.py compares realnet with the file, so
the ordinary tests need neither. No code of theirs is in here: they are only called.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from trl import GRPOTrainer
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos as verl
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.workers.config import ActorConfig

FILE = Path(__file__).with_name("published.json")
MODES = {
    "tokens": "token-mean",
    "sequences": "seq-mean-token-mean",
    "constant": "seq-mean-token-sum-norm",
}
CONSTANT = 11
BETA = 0.07


def made() -> dict[str, Any]:
    """Return the inputs: 9 answers in 3 groups, up to 8 tokens, some of them a tool's."""
    rng = np.random.default_rng(20)
    groups = [0, 1, 0, 2, 1, 0, 2, 2, 0]
    lengths = [8, 5, 3, 7, 8, 2, 6, 1, 4]
    mask = np.array([[int(t < n) for t in range(8)] for n in lengths])
    mask[0, 3:5] = mask[3, 2] = mask[4, 7] = 0
    behave = -np.abs(rng.normal(1.0, 0.5, (9, 8)))
    proximal = behave + rng.normal(0, 0.3, (9, 8))
    return {
        "groups": groups,
        "mask": mask.tolist(),
        "rewards": [1.0, 0.5, 0.0, 1.0, -0.25, 1.0, 0.0, 1.0, 0.0],
        "advantages": rng.normal(0, 1, 9).tolist(),
        "behave": behave.tolist(),
        "proximal": proximal.tolist(),
        "logp": (proximal + rng.normal(0, 0.25, (9, 8))).tolist(),
        "reference": (behave + rng.normal(0, 0.4, (9, 8))).tolist(),
        "values": rng.normal(0, 1, (9, 8)).tolist(),
        "token_rewards": (rng.normal(0, 0.1, (9, 8)) * mask).tolist(),
        "constant": CONSTANT,
        "beta": BETA,
    }


def tensors(inputs: dict[str, Any]) -> SimpleNamespace:
    found = {k: torch.tensor(v, dtype=torch.float64) for k, v in inputs.items()}
    return SimpleNamespace(**found)


def verl_advantages(x: SimpleNamespace) -> dict[str, Any]:
    """Return verl's advantages, [9, 8] each, and the returns of GAE."""
    groups = np.array([int(g) for g in x.groups.tolist()])
    last = [max(t for t in range(8) if row[t]) for row in x.mask.tolist()]
    outcome = torch.zeros(9, 8, dtype=torch.float64)
    outcome[torch.arange(9), torch.tensor(last)] = x.rewards
    config = AlgoConfig(gamma=1.0)
    both = outcome + x.token_rewards
    rloo = verl.compute_rloo_outcome_advantage(outcome, x.mask, groups)[0]
    baseline = verl.compute_reinforce_plus_plus_baseline_outcome_advantage
    return {
        "grpo": verl.compute_grpo_outcome_advantage(outcome, x.mask, groups)[0],
        "dr_grpo": verl.compute_grpo_outcome_advantage(
            outcome, x.mask, groups, norm_adv_by_std_in_grpo=False
        )[0],
        "rloo": rloo,
        "grpo with penalties": verl.compute_grpo_outcome_advantage(both, x.mask, groups)[0],
        "reinforce_pp": verl.compute_reinforce_plus_plus_outcome_advantage(both, x.mask, config)[0],
        "reinforce_pp_baseline": baseline(both, x.mask, groups)[0],
        "gae returns": verl.compute_gae_advantage_return(both, x.values, x.mask, 0.97, 0.9)[1]
        * x.mask,
    }


def verl_losses(x: SimpleNamespace) -> dict[str, Any]:
    """Return verl's losses and their gradients by log pi, for each mean."""
    found: dict[str, Any] = {}
    advantages = x.advantages[:, None].expand(9, 8)
    kinds = {
        "ppo": (verl.compute_policy_loss_vanilla, (0.2, 0.28), 1e9),
        "dual": (verl.compute_policy_loss_vanilla, (0.2, 0.28), 1.5),
        "gspo": (verl.compute_policy_loss_gspo, (0.03, 0.04), 1e9),
        "cispo": (verl.compute_policy_loss_cispo, (0.3, 0.4), 1e9),
    }
    for name, (loss, (low, high), dual) in kinds.items():
        config = ActorConfig(
            strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1,
            clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=dual,
        )  # fmt: skip
        config.global_batch_info["loss_scale_factor"] = CONSTANT
        for mean, mode in MODES.items():
            logp = x.logp.clone().requires_grad_(True)
            weight = torch.exp(x.proximal - x.behave).clamp(max=1.3)
            value, _ = loss(x.proximal, logp, advantages, x.mask, mode, config, weight)
            found[f"{name} {mean}"] = graded(value, logp)
    return found


def verl_weights(x: SimpleNamespace) -> dict[str, Any]:
    """Return verl's importance weights: clamped, and masked between two bounds."""
    log_ratio = x.proximal - x.behave
    return {
        f"{kind} {level}": compute_rollout_correction_weights(log_ratio, x.mask, level, bounds)[0]
        for level in ("token", "sequence")
        for kind, bounds in (("clamp", 1.3), ("mask", "0.8_1.3"))
    }


def verl_divergence(x: SimpleNamespace) -> dict[str, Any]:
    """Return verl's estimates of the KL to the reference."""
    return {k: verl.kl_penalty_forward(x.logp, x.reference, k) * x.mask for k in ("k1", "k2", "k3")}


def trl_losses(x: SimpleNamespace) -> dict[str, Any]:
    """Return trl's losses, its KL in them, and their gradients by log pi."""
    kinds = {
        "grpo": ("grpo", "token", BETA, 0.2, 0.28),
        "dapo": ("dapo", "token", 0.0, 0.2, 0.28),
        "dr_grpo": ("dr_grpo", "token", BETA, 0.2, 0.2),
        "gspo": ("grpo", "sequence", 0.0, 0.03, 0.04),
        "cispo": ("cispo", "token", 0.0, 0.2, 1.4),  # the upper bound itself, no lower one
    }
    return {name: trl_loss(x, *how) for name, how in kinds.items()}


def trl_loss(
    x: SimpleNamespace, kind: str, level: str, beta: float, low: float, high: float
) -> Any:
    logp = x.logp.clone().requires_grad_(True)
    same = SimpleNamespace(
        gather=lambda v: v, gather_for_metrics=lambda v: v, reduce=lambda v, reduction: v,
        num_processes=1, device=torch.device("cpu"), sync_gradients=True,
    )  # fmt: skip
    from collections import defaultdict

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=level, beta=beta, epsilon_low=low, epsilon_high=high,
        loss_type=kind, use_vllm=False, vllm_importance_sampling_correction=False,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        current_gradient_accumulation_steps=1, max_completion_length=CONSTANT, accelerator=same,
        model=SimpleNamespace(training=True), _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(9, 1, dtype=torch.long),
        "prompt_mask": torch.ones(9, 1),
        "completion_ids": torch.zeros(9, 8, dtype=torch.long),
        "completion_mask": x.mask,
        "advantages": x.advantages,
        "old_per_token_logps": x.proximal,
        "ref_per_token_logps": x.reference,
        "num_items_in_batch": x.mask.sum(),
    }
    return graded(GRPOTrainer._compute_loss(trainer, None, inputs), logp)


def graded(value: torch.Tensor, logp: torch.Tensor) -> dict[str, Any]:
    (gradient,) = torch.autograd.grad(value, logp)
    return {"loss": value.item(), "gradient": gradient}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def far(a: Any, b: Any) -> float:
    """Return the largest difference between two structures of numbers."""
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return float("inf")
        return max((far(a[k], b[k]) for k in a), default=0.0)
    return float(np.abs(np.array(a, dtype=float) - np.array(b, dtype=float)).max())


def main() -> None:
    inputs = made()
    x = tensors(inputs)
    found = plain(
        {
            "inputs": inputs,
            "verl": {
                "advantages": verl_advantages(x),
                "losses": verl_losses(x),
                "weights": verl_weights(x),
                "divergence": verl_divergence(x),
            },
            "trl": {"losses": trl_losses(x)},
        }
    )
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found) + "\n", encoding="utf-8")
        print(f"wrote {FILE}")
        return
    apart = far(json.loads(FILE.read_text(encoding="utf-8")), found)
    print(f"verl and trl differ from {FILE.name} by {apart:.1e}")
    sys.exit(apart > 1e-9)


if __name__ == "__main__":
    main()
