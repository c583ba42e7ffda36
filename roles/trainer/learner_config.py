"""The learner's part of the trainer's table. Imports no torch, so a topology can be checked fast.

Knows nothing of models or tensors. Read by the trainer's own config and by the learner.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from realnet.changes import Fixed, Past
from realnet.config import Config, Seconds, doc
from realnet.errors import ConfigError, RealnetError
from realnet.roles.algorithms.contradictions import Contradiction, refuse_policy, refuse_reference
from realnet.roles.algorithms.presets import Algorithm, Loss, Rule, expand, opened
from realnet.roles.checkpoints.origin import RUN
from realnet.roles.models.reference import model_folder, origin_of
from realnet.roles.tables import Lora, Policy

START = "start"  # the reference: the policy as it was at step 0


class NonFinite(RealnetError):
    """A loss or gradient is not a finite number. Weights and optimizer are as before the step."""


Beta = Annotated[float, doc("", ge=0.0, lt=1.0)]


class WarmStart(Config):
    """`warm_start`: supervised training on demonstrations before the first policy version."""

    steps: Annotated[int, doc("updates; 0: no warm start", ge=0)] = 0
    batch: Annotated[int, doc("demonstrations an update", ge=1)] = 48
    lr: Annotated[float, doc("of AdamW, for embeddings, norms and biases", gt=0)] = 5e-3
    muon_lr: Annotated[float, doc("of Muon, for the matrices inside the blocks", gt=0)] = 0.02
    momentum: Annotated[float, doc("of Muon", ge=0, lt=1)] = 0.95
    betas: Annotated[tuple[Beta, Beta], doc("of AdamW")] = (0.9, 0.95)
    warm_up: Annotated[int, doc("updates over which the rates rise", ge=0)] = 10
    hold: Annotated[
        float, doc("the rates begin to fall after this share of updates", ge=0, le=1)
    ] = 0.5
    grad_clip: Annotated[float, doc("largest gradient norm; 0: no bound", ge=0)] = 1.0


class Fsdp(Config):
    """`fsdp`: how a gang of ranks trains one model (`backend = "fsdp"`)."""

    collective: Annotated[
        Seconds, doc("how long a rank waits for the others before it fails, and the gang with it")
    ] = Seconds(600.0)


class LearnerConfig(Config):
    """How a policy learns: the algorithm, its loss, the optimizer, the cut into minibatches.

    `loss` is opened as the table is read: afterwards it holds every field that has an effect.
    """

    backend: Annotated[
        Literal["plain", "fsdp"],
        doc("the whole model in this process, or cut by FSDP2 over the ranks of the role"),
    ] = "plain"
    fsdp: Annotated[Fsdp, doc("how the ranks of a cut model work together")] = Fsdp()
    lora: Annotated[
        Lora,
        doc("adapters are trained beside frozen weights"),
        Fixed("the checkpoint's moments are of what was trained"),
    ] = Lora()
    algorithm: Annotated[Algorithm, doc("preset of advantage and loss; what you give wins")] = (
        "rloo"
    )
    loss: Annotated[Loss, doc("fields of the loss that differ from the preset")] = Loss()
    reference: Annotated[
        str,
        doc(
            'what a KL is measured against: "start", the policy as it was at step 0, a folder, or '
            '"run:NAME@step"'
        ),
        Fixed("the policy as it was at step 0 was not kept", to=(START,)),
    ] = ""
    lr: Annotated[float, doc("learning rate of AdamW", gt=0)] = 1e-6
    schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        doc("of lr, from the end of warm_up to the last of run.until.steps"),
    ] = "constant"
    warm_up: Annotated[int, doc("steps over which lr rises", ge=0)] = 0
    lr_end: Annotated[float, doc("share of lr where the schedule ends", ge=0, le=1)] = 0.0
    betas: Annotated[tuple[Beta, Beta], doc("of AdamW")] = (0.9, 0.99)
    epsilon: Annotated[float, doc("of AdamW", gt=0)] = 1e-8
    weight_decay: Annotated[float, doc("of AdamW", ge=0)] = 0.0
    # Adam's step does not depend on the scale of gradients, so a tight bound costs nothing. It
    # takes out the spikes that undo what was learned once most groups are solved.
    grad_clip: Annotated[float, doc("largest gradient norm; 0: no bound", ge=0)] = 0.1
    minibatches: Annotated[int, doc("updates an epoch", ge=1)] = 2
    epochs: Annotated[int, doc("passes over a batch", ge=1)] = 1
    micro_tokens: Annotated[int, doc("tokens in one forward pass, padding included", ge=1)] = 4096
    rows: Annotated[
        Literal["packed", "padded"],
        doc("answers laid end to end in one row, or each in a row as wide as the longest"),
    ] = "packed"
    attention: Annotated[
        Literal["auto", "sdpa", "flex", "flash"],
        doc(
            "over packed rows: sdpa, torch's own over small batches; flex (torch, compiled) and "
            "flash (flash-attn, or torch's) on GPUs; auto: flash where it can be had, else sdpa"
        ),
    ] = "auto"
    autocast: Annotated[
        Literal["off", "bf16"],
        doc("compute in bf16 with fp32 weights; for weights in bf16 too, [policy].dtype"),
    ] = "off"
    activations: Annotated[
        Literal["keep", "recompute"],
        doc("of a block, between forward and backward: kept, or computed again (less memory)"),
    ] = "keep"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], doc("where the model is; auto: a GPU if this role has one")
    ] = "auto"
    # Several processes with several threads each on the same cores slow each other down 100-fold.
    threads: Annotated[int, doc("of torch on the CPU; 1: repeats bit for bit", ge=1)] = 1
    warm_start: Annotated[
        WarmStart,
        doc("supervised training before version 0"),
        Past("the run is past its warm start"),
    ] = WarmStart()

    def __post_init__(self) -> None:
        """Refuse contradictions when the table is read, not when a run has started."""
        rule = self.rule
        refuse_reference(rule.kl, rule.kl_beta, self.reference)
        if self.schedule == "constant" and self.lr_end != 0.0:
            raise Contradiction(
                f'lr_end = {self.lr_end:g} is where a schedule ends, but schedule = "constant" has '
                'no end: remove lr_end, or set schedule = "linear" or "cosine"'
            )
        msgspec.structs.force_setattr(self, "loss", opened(rule))

    @property
    def rule(self) -> Rule:
        """The algorithm with every field decided."""
        return expand(self.algorithm, self.loss)


def check_rule(config: LearnerConfig, policy: Policy) -> None:
    """Raise Contradiction when a loss does not fit what `[policy]` says."""
    rule = config.rule
    refuse_policy(
        proximal=rule.proximal,
        weight=rule.weight,
        compares=rule.advantage != "reinforce_pp",
        dynamic=rule.dynamic_sampling,
        max_age=policy.max_age,
        group=policy.group,
    )
    if config.autocast != "off" and policy.dtype != "fp32":
        raise Contradiction(
            f'autocast = "{config.autocast}" computes in bf16 from fp32 weights, but '
            f'[policy].dtype = "{policy.dtype}": remove autocast, or set [policy].dtype = "fp32"'
        )


def check_attention(config: LearnerConfig, policy: Policy) -> None:
    """Raise ConfigError for an attention that cannot be had, as far as it shows without torch."""
    asked, key = config.attention, "[roles.trainer].attention"
    if asked in ("auto", "sdpa"):
        return
    instead = 'write "auto", or "sdpa"'
    if config.rows == "padded":
        raise Contradiction(
            f'{key} = "{asked}" is for packed rows, and rows = "padded": remove one of the two'
        )
    if config.device == "cpu":
        raise ConfigError(f'{key} = "{asked}" needs a GPU, and device = "cpu": {instead}')
    if asked == "flash" and policy.dtype == "fp32" and config.autocast == "off":
        raise Contradiction(
            f'{key} = "flash" computes in bf16: set [policy].dtype = "bf16" or '
            f'autocast = "bf16", or {instead}'
        )
    if asked == "flash" and not _has_flash():
        raise ConfigError(
            f'{key} = "flash", and neither flash-attn is installed nor has torch a kernel of its '
            f"own (2.10 has): pip install flash-attn, or {instead}"
        )


def _has_flash() -> bool:
    """Tell whether there is a kernel for it, importing neither."""
    torch = importlib.util.find_spec("torch")
    places = torch.submodule_search_locations if torch is not None else None
    own = any((Path(p) / "nn" / "attention" / "varlen.py").is_file() for p in places or ())
    return own or importlib.util.find_spec("flash_attn") is not None


def check_alone(ranks: int) -> None:
    """Raise ConfigError when several ranks would each train the whole model."""
    if ranks > 1:
        raise ConfigError(
            f'[roles.trainer] has ranks = {ranks} and backend = "plain", which trains in one '
            'process: set backend = "fsdp", or remove ranks'
        )


def check_lora(config: LearnerConfig) -> None:
    """Raise ConfigError when adapters are asked for and peft is not there."""
    if config.lora.rank and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"[roles.trainer].lora.rank = {config.lora.rank} needs peft, which is not installed: "
            "pip install 'realnet-rl[lora]', or remove lora"
        )


def check_reference(config: LearnerConfig, policy: Policy, base: Path) -> None:
    """Raise ConfigError unless the reference is "start", nothing, a folder or another run's."""
    if config.reference in ("", START):
        return
    other = msgspec.structs.replace(policy, model=config.reference, shape={})
    try:
        if config.reference.startswith(RUN):
            origin_of(other, base)
        else:
            model_folder(other, base)
    except ConfigError as error:
        text = str(error).replace("[policy].model", "[roles.trainer].reference")
        raise ConfigError(text) from None
