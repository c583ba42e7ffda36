"""What goes out of a model that is cut over ranks: each rank's slices, and the leader's whole.

No rank holds a whole tensor to publish: slices are written where they lie in the version's bytes,
one after the other, so what a rank needs beside its shard is room for one of them. Adapters go out
in fp32, as they are trained; the frozen weights once, in bf16 where all their numbers are of bf16
(all ranks agree on that), else in fp32.

Knows cut tensors and layouts; knows nothing of orders. Called by `shard.py` on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import xxhash

from realnet.roles.messages import Manifest, SlotOpened, Version
from realnet.roles.models.build import DTYPES
from realnet.roles.tables import Lora, Policy
from realnet.roles.trainer import learner_lora
from realnet.roles.trainer.fsdp import sharded
from realnet.roles.trainer.fsdp.records import Report
from realnet.roles.trainer.outgoing import What, as_array, is_bf16
from realnet.roles.trainer.publisher import SlotWriter
from realnet.roles.weights import layout
from realnet.roles.weights import slices as cut_slices
from realnet.roles.weights.layout import Array
from realnet.roles.weights.sources import this_host


class RankOutgoing:
    """What one rank writes. `sums` is a group of all ranks on the CPU."""

    def __init__(self, model: Any, policy: Policy, lora: Lora, rank: int, sums: Any) -> None:
        self._model = model
        self._lora = lora
        self._rank = rank
        self._sums = sums
        self._dtype = DTYPES[policy.dtype]
        self._base_dtype = torch.float32
        self._slots = SlotWriter()

    def plan(self, version: Version, what: What) -> Manifest:
        """Return how it lies in memory, from names and whole shapes alone.

        A base is summed up before it is planned: then all ranks know in which dtype.
        """
        return layout(
            version,
            (
                (name, str(dtype).removeprefix("torch."), tuple(weight.shape))
                for name, weight, dtype in self._named(what)
            ),
        )

    def sum_up_base(self) -> str:
        """Agree on the dtype of the base; return the digest of this rank's slices of it."""
        self._model.reshard()
        cut: list[Any] = [weight.detach() for _, weight in learner_lora.frozen(self._model)]
        frozen = [weight.to_local() for weight in cut]
        coarse = torch.tensor(int(all(map(is_bf16, frozen))))
        dist.all_reduce(coarse, dist.ReduceOp.MIN, group=self._sums)
        self._base_dtype = torch.bfloat16 if coarse else torch.float32
        total = xxhash.xxh3_128()
        for weight in frozen:
            total.update(as_array(weight.to(self._base_dtype))[0].reshape(-1).view("u1").data)
        return str(total.hexdigest())

    def write(self, version: Version, opened: SlotOpened, what: What) -> Report:
        """Write this rank's slices into an open slot on this host."""
        self._model.reshard()
        if opened.host != this_host():
            return Report(error=f"rank {self._rank} is on {this_host()}, not on {opened.host}")
        slices = [(name, *sharded.place(weight)) for name, weight, _ in self._named(what)]
        mine = cut_slices.part(self.plan(version, what), slices, self._rank)
        return Report(part=self._slots.write_part(mine, opened.location, self._arrays(what)))

    def _arrays(self, what: What) -> Iterator[Array]:
        """Yield this rank's slices on the CPU, one after the other: no two are there at once."""
        for _, weight, dtype in self._named(what):
            yield as_array(weight.detach().to_local().to(dtype))[0]

    def _named(self, what: What) -> Iterator[tuple[str, Any, torch.dtype]]:
        """Yield name, cut tensor and the dtype that it goes out in."""
        for name, weight in self._model.named_parameters():
            if not self._lora.rank:
                yield name, weight, self._dtype
            elif learner_lora.is_adapter(name):
                if what == "version":
                    yield learner_lora.adapter_name(name), weight, torch.float32
            elif what == "base":
                yield learner_lora.plain_name(name), weight, self._base_dtype
