"""What a trainer's process takes, by what for.

Knows tables and counts, not torch. Called by the trainer's `needs`.
"""

from __future__ import annotations

from realnet.actor import Need, Place
from realnet.roles.models import memory
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner_config import LearnerConfig


def training_need(config: LearnerConfig, policy: Policy, place: Place) -> Need:
    """Return what one process of a trainer needs at least.

    Micro-batches are counted as `micro_tokens` tokens, or as one sequence of `context` where that
    is longer. On a GPU the leader also holds the model once on the host: to cut it, to publish it.
    """
    shape = memory.known_shape(policy, place.base)
    if shape is None:
        return Need(unknown=memory.UNREAD)
    coarse = policy.dtype == "bf16" or config.autocast == "bf16"
    width = memory.WIDTH["bf16" if coarse else "fp32"]
    lora = config.lora
    adapters = memory.num_adapters(shape, lora.rank, lora.targets)
    if config.backend == "fsdp":
        parts = memory.cut_training(shape, width, place.ranks, adapters)
        frozen = memory.FINE * -(-memory.num_weights(shape) // place.ranks)
    else:
        parts = memory.whole_training(shape, policy.dtype, adapters)
        frozen = memory.num_weights(shape) * memory.WIDTH[policy.dtype]
    if config.reference:
        parts["reference"] = frozen
    tokens = max(config.micro_tokens, policy.context)
    parts["activations"] = memory.activations(
        shape, tokens, width, recompute=config.activations == "recompute"
    )
    parts["logits"] = memory.logits(shape, tokens, width)
    if config.backend == "plain" and place.gpus and not lora.rank and _lends(place):
        parts["version that is lent"] = memory.num_weights(shape) * memory.WIDTH[policy.dtype]
    total = sum(parts.values())
    if config.device == "cpu" or (config.device == "auto" and not place.gpus):
        return Need(total, parts=parts)
    fine = memory.FINE if config.backend == "fsdp" else memory.WIDTH[policy.dtype]
    whole = memory.num_weights(shape) * fine if place.rank == 0 else 0
    return Need(whole, total, parts)


def _lends(place: Place) -> bool:
    """Tell whether versions are lent on the GPU: a parameter server beside this has that link."""
    return any("cuda_ipc" in getattr(b.config, "links", ()) for b in place.beside.values())
