"""Versions of adapters for tests: a base of any named weights, adapters by seed, and the merged.

What is merged is merged by the trainer's own function, with torch; who lays adapters over a base
has to come to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from realnet.roles.messages import Held, Location, Manifest, Over, Source, Version
from realnet.roles.tables import Lora
from realnet.roles.trainer.learner_lora import merge
from realnet.roles.trainer.outgoing import as_array
from realnet.roles.weights import ArenaSlots, fill, layout
from realnet.roles.weights.adapters import DOWN, UP, base_version

Named = Mapping[str, torch.Tensor]
LORA = Lora(rank=3, alpha=7)


def adapters_for(base: Named, seed: int, targets: Sequence[str], lora: Lora = LORA) -> Named:
    """Return the two matrices of an adapter at each weight that ends so."""
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for name, weight in base.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(tuple(targets)):
            rows, columns = weight.shape
            for end, shape in ((DOWN, (lora.rank, columns)), (UP, (rows, lora.rank))):
                found[stem + end] = 0.1 * torch.randn(shape, generator=rng)
    return found


def merged(base: Named, adapters: Named, dtype: torch.dtype, lora: Lora = LORA) -> Named:
    """Return the whole weights as a trainer merges them, from fp32, rounded once."""
    whole = {}
    for name, weight in base.items():
        stem = name.removesuffix(".weight")
        fine = weight.float()
        if stem + DOWN in adapters:
            fine = merge(fine, adapters[stem + DOWN], adapters[stem + UP], lora)
        whole[name] = fine.to(dtype)
    return whole


def filled(version: Version, named: Named) -> tuple[Manifest, bytearray]:
    """Return a version and its bytes."""
    arrays = [(name, *as_array(weight)) for name, weight in named.items()]
    plan = layout(version, ((name, dtype, array.shape) for name, array, dtype in arrays))
    room = bytearray(plan.num_bytes)
    return fill(plan, memoryview(room), [array for _, array, _ in arrays]), room


def over(base: Manifest, manifest: Manifest, dtype: str, lora: Lora = LORA) -> Manifest:
    """Return a version of adapters as one that is laid over a base."""
    said = Over(base.version, base.digest, lora.rank, lora.alpha, dtype)
    return msgspec.structs.replace(manifest, over=said)


class Published:
    """A base and versions of adapters in this host's memory, in files of a folder."""

    def __init__(self, folder: Path, base: Named, policy: str = "policy") -> None:
        self.folder = folder
        self.weights = base
        self.base = self._put(*filled(base_version(Version(policy, 0, 0)), base))

    def adapters(self, version: Version, adapters: Named, dtype: str) -> Held:
        """Publish a version over the base."""
        manifest, room = filled(version, adapters)
        return self._put(over(self.base.manifest, manifest, dtype), room)

    def _put(self, manifest: Manifest, room: bytearray) -> Held:
        size = ArenaSlots.slot_bytes(manifest.num_bytes)
        path = self.folder / str(manifest.version)
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(size)
        with ArenaSlots(str(path), 1, size) as arena:
            arena.begin(0)
            with arena.view(0) as view:
                view[: len(room)] = room
            arena.commit(0, manifest)
            return Held(manifest, arena.location(0))


def streamed(held: Held, at: str) -> Held:
    """Return a version that can be had by a stream alone."""
    return Held(held.manifest, Location("", 0, 0), (Source("stream", "", at),))


def same(found: Mapping[str, np.ndarray], wanted: Named) -> None:
    """Assert that arrays are, bit for bit, these tensors."""
    assert list(found) == list(wanted)
    for name, weight in wanted.items():
        np.testing.assert_array_equal(found[name], as_array(weight)[0], err_msg=name)
