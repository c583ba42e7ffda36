"""What must stand in the environment before vllm is imported, here and in its own processes.

Knows the variables and why; imports nothing of vLLM. Called by `engine` and `core`.
"""

from __future__ import annotations

import os

from realnet.roles.generator.engine import EngineConfig

ENGINE_OF = "REALNET_ENGINE_OF"
"""The process whose engine this is: engine processes end with it."""


def prepare(config: EngineConfig) -> None:
    """Set the variables. What the user set stays, except where it would break a promise."""
    quiet = {
        "HF_HUB_OFFLINE": "1",  # a model is a folder: nothing is looked up
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Engines on one small machine would all be pinned to the same core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(config.threads),
        # On a GPU vLLM forks: a generator with its sockets, locks and threads is not to be copied.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not config.vllm.graphs:
        # Even eager, the first step with log-probabilities compiles a gather, with g++.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if config.vllm.tensor_parallel == 1:
        # The worker lives in the engine's process: one process less, and no pickled calls to it.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Somebody else's plugin has no business in a run's engine.
    os.environ["VLLM_PLUGINS"] = "realnet"
    os.environ.pop("VLLM_ALLOW_INSECURE_SERIALIZATION", None)
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would override `kv_cache`
    os.environ[ENGINE_OF] = str(os.getpid())
