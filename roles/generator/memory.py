"""What a generator's process takes, by what for.

Knows tables and counts, not engines. Called by the generator's `needs`.
"""

from __future__ import annotations

from realnet.actor import Need, Place
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.models import memory
from realnet.roles.tables import Policy


def generation_need(engine: EngineConfig, policy: Policy, place: Place) -> Need:
    """Return what one generator needs: weights, a second copy at a swap, keys and values.

    On the host it has room for one version, from which an engine takes it.

    Keys and values are of all slots at the longest context; vLLM does with less than that by
    letting requests wait, so for it they are what `vllm.kv_cache` says, or else what its share of
    the GPU leaves, or, where nobody says how large that is, of one request.
    """
    if engine.kind == "fake":
        return Need()
    shape = memory.known_shape(policy, place.base)
    if shape is None:
        return Need(unknown=memory.UNREAD)
    width = memory.WIDTH[policy.dtype]
    weights = memory.num_weights(shape) * width
    slots = 1 if engine.kind == "vllm" else engine.slots
    cache = memory.kv_cache(shape, slots * policy.context, width)
    if engine.kind == "vllm" and engine.vllm.kv_cache:
        cache = int(engine.vllm.kv_cache)
    on_gpu = not engine.device.startswith("cpu") and (place.gpus > 0 or engine.device != "")
    lacks = ""
    if engine.kind == "vllm" and on_gpu and place.gpu_bytes and not engine.vllm.kv_cache:
        share = int(engine.vllm.memory * place.gpu_bytes) * engine.vllm.tensor_parallel
        if share < weights + cache:
            lacks = (
                f"engine.vllm.memory = {engine.vllm.memory:g} of its GPUs are {_gib(share)}, but "
                f"weights take {_gib(weights)}, and keys and values of one request of "
                f"{policy.context} tokens {_gib(cache)}"
            )
        cache = max(cache, share - weights)
    parts = {"weights": weights, "keys and values": cache}
    if engine.kind == "torch":
        parts["new weights"] = weights  # beside the running ones, until the swap
    if engine.keeps_second and any(b.kind == "evaluator" for b in place.beside.values()):
        parts["second engine"] = weights + cache  # for versions that are measured
    if on_gpu:
        return Need(weights, sum(parts.values()), parts, lacks=lacks)
    parts["room for a version"] = weights
    return Need(sum(parts.values()), parts=parts)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
