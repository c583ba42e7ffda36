"""Adapters of low rank (LoRA): a frozen model, and two small matrices beside each chosen one.

peft makes the layers; what they compute is base(x) + alpha / rank * B(A(x)). Engines, exports and
references know the merged weight, base + alpha / rank * B A, under the name that it has without
adapters: a plain model. What is published are the adapters, and the frozen weights once; whoever
receives them makes the same merged bits (`weights/merging.py`), and a canary compares the two ways
to compute one thing.

Knows models and, in one function, peft, which is imported when adapters are asked for and not
before. Called by the learner and its shards.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from realnet.errors import CheckpointError, ConfigError, listed
from realnet.roles.models.blocks import decoder_blocks
from realnet.roles.tables import Lora
from realnet.roles.trainer.learner_files import check_weights, write_tensors
from realnet.roles.weights.adapters import DOWN, UP
from realnet.roles.weights.merging import digits_of

_KIND = "default"  # what peft calls an adapter that nobody gave a name
_DOWN, _UP, _BASE = f".lora_A.{_KIND}.weight", f".lora_B.{_KIND}.weight", ".base_layer."
_AT_ONCE = 2**22  # sums in fp64 that are there at once
Named = list[tuple[str, torch.Tensor]]
Tensors = Mapping[str, torch.Tensor]


def add_adapters(model: Any, lora: Lora, seed: int) -> None:
    """Put adapters beside the matrices that `lora` names, in place, and freeze everything else.

    They add nothing yet. Their weights follow from `seed`; the global random state stays as it
    was. A model without memory gets adapters without. Raises ConfigError for names it has not.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    first = next(model.parameters())
    names = _targets(model, lora)
    table = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(table, model, _KIND, low_cpu_mem_usage=first.is_meta)
    for name, weight in model.named_parameters():
        if is_adapter(name):
            weight.data = weight.data.to(first.dtype)
            weight.requires_grad_(True)
    model.eval()


def _targets(model: Any, lora: Lora) -> list[str]:
    """Return the last parts of the names of the matrices that get adapters."""
    known = {
        name.rpartition(".")[2]
        for block in decoder_blocks(model)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    unknown = set(lora.targets) - known
    if unknown:
        raise ConfigError(
            f"[roles.trainer].lora.targets: the blocks of {type(model).__name__} have no matrix "
            f"{listed(unknown)}; they have {listed(known)}"
        )
    return sorted(lora.targets or known)


def is_adapter(name: str) -> bool:
    """Tell whether a parameter is one of an adapter's."""
    return name.endswith((_DOWN, _UP))


def plain_name(name: str) -> str:
    """Return what a frozen weight is called in a model without adapters."""
    return name.replace(_BASE, ".")


def adapter_name(name: str) -> str:
    """Return what an adapter's matrix is called in a version."""
    return name.removesuffix(_DOWN) + DOWN if name.endswith(_DOWN) else name.removesuffix(_UP) + UP


def beside(name: str) -> str:
    """Return what a matrix and its adapter have in common in their names; alone it is its name."""
    stem, found, _ = name.partition(_BASE)
    return stem if found else name.removesuffix(_DOWN).removesuffix(_UP)


def frozen(model: Any) -> Named:
    """Return the weights that are not trained, the live ones."""
    return [(n, w) for n, w in model.named_parameters() if not is_adapter(n)]


def merged(tensors: Tensors, lora: Lora) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of the model without adapters that computes the same, by their names there.

    Weights without an adapter are yielded as they are; with rank 0, all of them.
    """
    for name, weight in tensors.items():
        if is_adapter(name):
            continue
        stem, found, _ = name.partition(_BASE)
        has_adapter = lora.rank and found and name.endswith(".weight")
        down = tensors.get(f"{stem}{_DOWN}") if has_adapter else None
        up = None if down is None else tensors[f"{stem}{_UP}"]
        whole = weight if down is None or up is None else merge(weight, down, up, lora)
        yield plain_name(name), whole


@torch.no_grad()
def merge(base: torch.Tensor, down: torch.Tensor, up: torch.Tensor, lora: Lora) -> torch.Tensor:
    """Return base + alpha / rank * up down: added up exactly, rounded to fp32, and to base's dtype.

    The sums are those of `weights/merging.py`, so that whoever lays adapters over a base has the
    same bits.
    """
    digits = digits_of(lora.rank)
    left = _stepped(up.double() * (lora.alpha / lora.rank), 1, digits)
    right = _stepped(down.double(), 0, digits)
    wide = torch.promote_types(base.dtype, torch.float32)
    result = torch.empty_like(base)
    rows = max(1, _AT_ONCE // max(1, base.shape[1]))
    for a in range(0, base.shape[0], rows):
        total = (left[a : a + rows] @ right).to(wide)
        result[a : a + rows] = total.add_(base[a : a + rows].to(wide))
    return result


def _stepped(factor: torch.Tensor, axis: int, digits: int) -> torch.Tensor:
    """As `merging.stepped`."""
    _, exponent = torch.frexp(factor.abs().amax(axis, keepdim=True))
    step = ((exponent.long() - digits + 1023) << 52).view(torch.float64)
    return (factor / step).round() * step


@contextlib.contextmanager
def base_in_training(model: Any) -> Iterator[Named]:
    """Train the frozen weights for once, and not the adapters: for a warm start."""
    base = frozen(model)
    try:
        for name, weight in model.named_parameters():
            weight.requires_grad_(not is_adapter(name))
        yield base
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(is_adapter(name))


@torch.no_grad()
def take(path: Path, found: Tensors, model: Any) -> bool:
    """Copy what a checkpoint holds into a model with adapters; tell whether the base was in it.

    It holds the adapters; the frozen weights as well where they are not those of the policy's
    folder. Or it is of a model without adapters: its weights become the frozen ones. Raises
    CheckpointError.
    """
    base = dict(frozen(model))
    adapters = {n: w for n, w in model.named_parameters() if is_adapter(n)}
    if not any(map(is_adapter, found)):
        live = {plain_name(name): name for name in base}
        check_weights(path, found, {plain_name(name): w for name, w in base.items()})
        found, adapters = {live[name]: w for name, w in found.items()}, {}
    has_base = any(name in base for name in found)
    wanted = {**adapters, **(base if has_base else {})}
    check_weights(path, found, wanted)
    for name, weight in wanted.items():
        weight.copy_(found[name])
    return has_base


def other_adapters(model: Any, found: Tensors, scalars: Mapping[str, int], lora: Lora) -> bool:
    """Tell whether a checkpoint's adapters are of another rank, alpha or targets than a model's.

    Numbers of the same shape mean something else under another alpha.
    """
    theirs = {name for name in found if is_adapter(name)}
    ours = {name for name, _ in model.named_parameters() if is_adapter(name)}
    about = (scalars.get("lora_rank"), scalars.get("lora_alpha"))
    return bool(theirs) and (theirs != ours or about != (lora.rank, lora.alpha))


def without_adapters(
    path: Path, found: Tensors, base: Tensors, scalars: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights as those of a model without adapters, by the names there.

    `base` are the weights of the policy's folder, by plain names, for those that are not in the
    checkpoint. Raises CheckpointError.
    """
    if not any(map(is_adapter, found)):
        return dict(found)
    if "lora_rank" not in scalars:
        raise CheckpointError(f"{path}: adapters of unknown rank: another realnet wrote it")
    lora = Lora(rank=scalars["lora_rank"], alpha=scalars["lora_alpha"])
    stems = {n.removesuffix(_DOWN) for n in found if n.endswith(_DOWN)}
    named = {
        name.removesuffix(".weight") + f"{_BASE}weight"
        if name.removesuffix(".weight") in stems and name.endswith(".weight")
        else name: weight
        for name, weight in base.items()
    }
    own = {plain_name(name) for name in found if not is_adapter(name)}
    rest = {n: w for n, w in named.items() if plain_name(n) not in own}
    return dict(merged({**rest, **found}, lora))


def write_adapters(named: Tensors, lora: Lora, model: str, folder: Path) -> None:
    """Write a folder that peft loads onto the policy's model. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    adapters = {n: w for n, w in named.items() if is_adapter(n)}
    names = {n.removesuffix(_DOWN).rpartition(".")[2] for n in adapters if n.endswith(_DOWN)}
    table = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model,
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(names), "fan_in_fan_out": False, "inference_mode": True,
    }  # fmt: skip
    text = json.dumps(table, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    shown = {
        f"base_model.model.{n.replace(f'.{_KIND}.', '.')}": w.float() for n, w in adapters.items()
    }
    write_tensors(shown, folder / "adapter_model.safetensors")
