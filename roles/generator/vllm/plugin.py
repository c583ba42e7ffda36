"""What vLLM calls in each of its processes: the entry point `vllm.general_plugins`.

It makes the processes of an engine end with the one that started them, also when that one was
killed, and tells vLLM of the transfer back end `realnet`. May be called several times.

Knows nothing of actors. Called by vLLM.
"""

from __future__ import annotations

import os

from realnet import host
from realnet.roles.generator.vllm.environment import ENGINE_OF

BACKEND = "realnet"


def register() -> None:
    """Register the back end; in an engine's own process, bind its life to its parent's."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    parent = int(os.environ.get(ENGINE_OF, "0"))
    if parent and parent != os.getpid():
        host.die_with_parent(parent)
        os.environ[ENGINE_OF] = str(os.getpid())  # of what this one starts in its turn
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "realnet.roles.generator.vllm.transfer", "RealnetTransfer"
        )
