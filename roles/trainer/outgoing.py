"""What goes out of a learner that holds its model whole: a version, its base, the merged whole.

    whole     every weight by the names of the model's Hugging Face folder, adapters merged in
    version   what is published: adapters alone where they are trained, else the whole
    base      the frozen weights that adapters are laid over, as they are, rounded nowhere

A base whose numbers are all of bf16 goes out in bf16: half the bytes, the same numbers.

Knows models and layouts; knows nothing of slots or links. Called by the learner and, through the
publication, by the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from realnet.roles.messages import Manifest, Version
from realnet.roles.tables import Lora
from realnet.roles.trainer import learner_lora
from realnet.roles.weights.digests import summed_up
from realnet.roles.weights.layout import Array, layout

What = Literal["whole", "version", "base"]
Weights = list[tuple[str, Array, str]]  # name, numbers, dtype


class Outgoing:
    """What goes out of one learner."""

    def __init__(self, model: Any, lora: Lora) -> None:
        self._model = model
        self._lora = lora

    def named(self, what: What) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor, where the model is. Those of a model are live ones."""
        every = [(name, weight.detach()) for name, weight in self._model.named_parameters()]
        if not self._lora.rank:
            yield from every
        elif what == "whole":
            yield from learner_lora.merged(dict(every), self._lora)
        elif what == "version":
            for name, weight in every:
                if learner_lora.is_adapter(name):
                    yield learner_lora.adapter_name(name), weight
        else:
            frozen = [(n, w) for n, w in every if not learner_lora.is_adapter(n)]
            narrow = all(is_bf16(weight) for _, weight in frozen)
            for name, weight in frozen:
                yield learner_lora.plain_name(name), weight.bfloat16() if narrow else weight

    def arrays(self, what: What) -> Weights:
        """Return (name, array, dtype): "float32", or "bfloat16" as its uint16 bits.

        The arrays of a model on the CPU are its memory: copy them before the next step.
        """
        return [(name, *as_array(weight)) for name, weight in self.named(what)]

    def plan(self, version: Version, what: What) -> Manifest:
        """Return how it lies in memory, without digests."""
        return layout(
            version, ((name, dtype_of(weight), weight.shape) for name, weight in self.named(what))
        )

    def digest(self, version: Version, what: What) -> str:
        """Return the digest of its bytes. One weight after the other is made for it."""
        arrays = (as_array(weight)[0] for _, weight in self.named(what))
        return summed_up(self.plan(version, what), arrays).digest


def is_bf16(weight: torch.Tensor) -> bool:
    """Tell whether all numbers of a tensor are numbers of bf16."""
    return torch.equal(weight.to(torch.bfloat16).to(weight.dtype), weight)


def dtype_of(weight: torch.Tensor) -> str:
    """Return a tensor's dtype as manifests call it."""
    return str(weight.dtype).removeprefix("torch.")


def as_array(weight: torch.Tensor) -> tuple[Array, str]:
    """Return a tensor's numbers on the CPU, and its dtype."""
    there = weight.detach().cpu().contiguous()
    bits = there.view(torch.uint16) if there.dtype == torch.bfloat16 else there
    return bits.numpy(), dtype_of(there)
