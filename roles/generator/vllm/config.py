"""`engine.vllm`: how vLLM runs. Knows nothing of vLLM itself. Read by `engine.EngineConfig`."""

from __future__ import annotations

from typing import Annotated

from realnet.config import Bytes, Config, doc


class VllmConfig(Config):
    """`roles.generator.engine.vllm`. What is not here follows from `engine` and `[policy]`."""

    tensor_parallel: Annotated[int, doc("processes that share the model's matrices", ge=1)] = 1
    kv_cache: Annotated[
        Bytes, doc('memory for keys and values, "64 MiB"; 0: what `memory` leaves')
    ] = Bytes(0)
    memory: Annotated[
        float, doc("share of the device's memory that each engine may take", gt=0, le=1)
    ] = 0.9
    block: Annotated[int, doc("tokens of a block of the prefix cache", ge=8)] = 32
    graphs: Annotated[bool, doc("compile and capture graphs: starts slower, writes faster")] = False
    own_process: Annotated[bool, doc("false: in the generator's process, for tests")] = True
