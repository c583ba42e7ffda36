"""Whether the device that `[roles.trainer]` asks for is there, in the process that would use it.

Knows torch. Called as a process comes up, and by whoever builds a model.
"""

from __future__ import annotations

import torch

from realnet.errors import ConfigError


def check_device(wanted: str) -> None:
    """Refuse a GPU that this process does not see."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            '[roles.trainer].device = "cuda", but this process sees no GPU: give the role gpus = 1 '
            "for each of its ranks, or remove device"
        )
