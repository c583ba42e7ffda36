"""How a version's bytes lie in memory, how they travel, and how a reader knows they are whole.

    layout, slices     where each tensor lies; what one rank of a trainer writes
    digests            what was written, and whether it is still that
    arena, reader      slots of shared memory: generations, leases; copying and mapping
    stream, disk       versions over the network, in chunks, and in safetensors files
    receiver           a generator's end: takes a version from the nearest source
    adapters, merging  versions that are laid over a base, and the sums that make them whole
    shelf              the slots of one arena, for whoever keeps versions
    lending            a version on a GPU, lent to who works on the same one
    intake, room       what a generator's engine gets, whatever it came as

Knows nothing of models or engines. Used by the trainer (writes), the parameter server and relays
(check, keep and announce) and generators (receive). torch is imported in `collective.py`,
`cuda_ipc.py` and `lending.py` only.
"""

from realnet.roles.weights.arena import ArenaSlots
from realnet.roles.weights.digests import (
    WeightsDamaged,
    WeightsGone,
    check,
    digest,
    fill,
    seal,
)
from realnet.roles.weights.layout import layout, tensors
from realnet.roles.weights.reader import WeightReader

__all__ = [
    "ArenaSlots",
    "WeightReader",
    "WeightsDamaged",
    "WeightsGone",
    "check",
    "digest",
    "fill",
    "layout",
    "seal",
    "tensors",
]
