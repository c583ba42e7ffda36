"""The slot that is being written, decided without IO: by whom, and what is there already.

One version is written at a time, by one writer or by several; whoever opens it a second time has
died meanwhile, and it begins again. It is whole when the slices of all writers tile every tensor.

Knows nothing of memory: generations are told. Called by the parameter server.
"""

from __future__ import annotations

import msgspec

from realnet.errors import RealnetError
from realnet.roles.messages import Manifest, OpenSlot, Tensor, Version
from realnet.roles.weights.layout import layout
from realnet.roles.weights.slices import fits, untiled


class Opening:
    """One version on its way into one slot."""

    def __init__(self, version: Version, slot: int, generation: int, writers: int) -> None:
        self.version = version
        self.slot = slot
        self.generation = generation  # odd
        self.writers = writers
        self.opened: set[int] = set()
        self.parts: dict[int, Manifest] = {}

    def joined_by(self, request: OpenSlot) -> bool:
        """Tell whether another writer of this version comes, for the first time; take note."""
        joins = (
            self.version == request.version
            and self.writers == request.writers
            and request.writer not in self.opened
        )
        if joins:
            self.opened.add(request.writer)
        return joins

    @property
    def missing(self) -> tuple[int, ...]:
        """The writers whose slices are not there, or not checked."""
        return tuple(w for w in range(self.writers) if w not in self.parts)

    def whole(self) -> Manifest:
        """Return what the version consists of, without digests. Raises RealnetError if it is not
        whole, and says what is missing, or there twice.

        What is said of the version as a whole (canary, base, key), any writer may say.
        """
        pieces = [t for part in self.parts.values() for t in part.tensors]
        tensors = {t.name: t for t in pieces}
        ordered = sorted(tensors.values(), key=_place)
        plan = layout(self.version, ((t.name, t.dtype, t.shape) for t in ordered))
        wrong = untiled(plan, pieces)
        if not wrong and any(part.num_bytes != plan.num_bytes for part in self.parts.values()):
            wrong = f"writers plan another number of bytes than {plan.num_bytes}"
        if wrong:
            raise RealnetError(f"{self.version} is not whole: {wrong}")
        said = self.parts.values()
        return msgspec.structs.replace(
            plan,
            canary=next((p.canary for p in said if p.canary is not None), None),
            over=next((p.over for p in said if p.over is not None), None),
            key=next((p.key for p in said if p.key), ""),
        )


def _place(tensor: Tensor) -> tuple[int, int]:
    """Order tensors as they lie; those without bytes lie before the one that begins there."""
    return tensor.offset_bytes, 1 if 0 not in tensor.shape else 0


def check_part(part: Manifest, room_bytes: int) -> None:
    """Raise RealnetError for slices that do not lie inside their tensors and the slot."""
    for tensor in part.tensors:
        if part.num_bytes > room_bytes or not fits(tensor, part.num_bytes):
            raise RealnetError(
                f"the slice of {tensor.name} of {part.version} (start {list(tensor.start)}, size "
                f"{list(tensor.size)}, shape {list(tensor.shape)}) does not lie inside of it"
            )
