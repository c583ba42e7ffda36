"""The weights in a checkpoint as those of the policy's plain model, whoever wrote it.

One process or a gang, every weight or adapters alone: whoever exports a checkpoint, chats with it
or compares with it asks here. Reads only.

Knows the learner's files and models. Called by the verbs of the command line.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from realnet.roles.models.build import DTYPES, build_model, named_weights
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Lora, Policy
from realnet.roles.trainer import learner_files, learner_lora


class Saved:
    """What a checkpoint's folder of the learner holds. Raises CheckpointError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / learner_files.MODEL
        self.raw, _, self._scalars = learner_files.read(folder)
        self.lora = Lora()
        if "lora_rank" in self._scalars:
            rank, alpha = self._scalars["lora_rank"], self._scalars["lora_alpha"]
            self.lora = Lora(rank=rank, alpha=alpha)

    def whole(self, policy: Policy, tokenizer: Tokenizer, base: Path) -> dict[str, torch.Tensor]:
        """Return every weight by its name in the policy's folder, in the policy's dtype.

        Adapters are merged. Raises CheckpointError when they do not fit the policy's model.
        """
        # What a gang saved is fp32, and so is what it adds adapters to before it rounds once.
        fine = msgspec.structs.replace(policy, dtype="fp32") if "ranks" in self._scalars else policy
        found = {name: weight.to(DTYPES[fine.dtype]) for name, weight in self.raw.items()}
        own = dict(named_weights(build_model(fine, tokenizer, base, policy.seed)))
        whole = learner_lora.without_adapters(self.path, found, own, self._scalars)
        learner_files.check_weights(self.path, whole, own)
        return {name: whole[name].to(DTYPES[policy.dtype]) for name in own}
