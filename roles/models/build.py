"""Models: built new or read from a folder, their named weights, and the folder others can load.

Knows transformers; knows nothing of training, versions or engines. Called by the learner, by tests,
and by whoever exports a policy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from realnet.errors import ConfigError, ensure, listed
from realnet.roles.checkpoints.meta import check_tokens
from realnet.roles.checkpoints.origin import RUN
from realnet.roles.models.reference import NEW, described, model_folder, origin_of
from realnet.roles.models.shape import Shape, shape_of
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(policy: Policy, tokenizer: Tokenizer, base: Path, seed: int) -> PreTrainedModel:
    """Return the policy's model on the CPU in the policy's dtype, in eval mode.

    A new model's weights follow from `seed`; the global random state stays as it was.
    """
    if policy.model.startswith(RUN):
        return _model_of_run(policy, tokenizer, base, seed)
    dtype = DTYPES[policy.dtype]
    auto: Any = AutoModelForCausalLM  # its methods carry no types
    if policy.model.startswith(NEW):
        config = new_config(shape_of(policy, tokenizer.vocab_size, base), tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = auto.from_config(config, dtype=dtype)
    else:
        folder = model_folder(policy, base)
        model = auto.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,  # the other form is a pickle
        )
        size = model.get_input_embeddings().weight.shape[0]
        if size < tokenizer.vocab_size:
            raise ConfigError(
                f"[policy].model: {folder} embeds {size} tokens, but the tokenizer has "
                f"{tokenizer.vocab_size}: they do not belong together"
            )
    ensure(isinstance(model, PreTrainedModel), "transformers built something else than a model")
    built: PreTrainedModel = model.eval()
    return built


def _model_of_run(policy: Policy, tokenizer: Tokenizer, base: Path, seed: int) -> PreTrainedModel:
    """Return the model that another run trained, as it was at a checkpoint."""
    origin = origin_of(policy, base)
    check_tokens(origin.meta, tokenizer.digest(), origin.found.folder)
    model = build_model(described(policy, base), tokenizer, base, seed)
    try:
        load_named_weights(model, load_file(origin.weights))
    except (OSError, SafetensorError, ConfigError) as error:
        raise ConfigError(
            f'[policy].model = "{policy.model}": {origin.weights} cannot be taken: {error}'
        ) from None
    return model


def build_empty(policy: Policy, tokenizer: Tokenizer, base: Path) -> PreTrainedModel:
    """Return the same model without memory for its weights: somebody else has them."""
    auto: Any = AutoModelForCausalLM
    policy = described(policy, base)
    if policy.model.startswith(NEW):
        config: Any = new_config(shape_of(policy, tokenizer.vocab_size, base), tokenizer)
    else:
        config = transformers.AutoConfig.from_pretrained(
            model_folder(policy, base), local_files_only=True, trust_remote_code=False
        )
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, dtype=DTYPES[policy.dtype]).eval()
    return model


def new_config(shape: Shape, tokenizer: Tokenizer) -> transformers.PreTrainedConfig:
    """Return the transformers config of a new model."""
    kinds: dict[str, Any] = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }
    config: transformers.PreTrainedConfig = kinds[shape.family](
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tie_word_embeddings,
        initializer_range=shape.initializer_range,
        max_position_embeddings=shape.max_positions,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    return config


def named_weights(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """Return every weight once (a tied head is its embedding), ordered by layer.

    Names are those of the Hugging Face folder, so that other engines know them.
    """
    return [(name, weight.detach()) for name, weight in model.named_parameters()]


def load_named_weights(model: PreTrainedModel, items: Mapping[str, torch.Tensor]) -> None:
    """Copy `items` into the model, all or nothing.

    Raises ConfigError when names or shapes are not exactly the model's.
    """
    own = dict(named_weights(model))
    missing, unknown = own.keys() - items.keys(), items.keys() - own.keys()
    shapes = [n for n in own.keys() & items.keys() if own[n].shape != items[n].shape]
    if missing or unknown or shapes:
        raise ConfigError(
            f"these weights are not of this model: missing: {listed(missing)}; "
            f"unknown: {listed(unknown)}; of another shape: {listed(shapes)}"
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(items[name])


def export_hf(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    folder: Path,
    more: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load; it appears whole or not.

    `more(folder)` puts further files into it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save(fresh)
    more(fresh)
    for path in (p for p in fresh.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
