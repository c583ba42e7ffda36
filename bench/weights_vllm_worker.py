"""What the bench adds to vLLM's workers: weights that are in their memory already, to compare with.

Named to vLLM by `weights_vllm.py`; its methods become the worker's.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from realnet.roles.generator.vllm.transfer import _mapped, as_torch, load
from realnet.roles.messages import Manifest
from realnet.roles.weights.layout import tensors


class Resident:
    """Keeps a version in this worker's own memory, and loads it from there."""

    kept: list[tuple[str, torch.Tensor]]

    def keep_resident(self, path: str, manifest: str) -> None:
        """Copy a version here."""
        plan = msgspec.json.decode(manifest, type=Manifest)
        views = tensors(plan, memoryview(_mapped(path, plan.num_bytes)))
        self.kept = [(name, tensor.clone()) for name, tensor in as_torch(views)]

    def load_resident(self) -> None:
        """Load what is here, as an update does."""
        worker: Any = self
        load(worker.model_runner.model, worker.model_config, worker.vllm_config, self.kept)
