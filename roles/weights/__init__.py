"""How a version's bytes lie in memory, and how a reader knows that they are whole.

Knows manifests, slots, generations and digests. Knows nothing of models, torch or actors. Used by
the trainer (writes), the parameter server (checks and announces) and generators (copy out).
"""

from realnet.roles.weights.arena import ArenaSlots, WeightReader, WeightsDamaged, WeightsGone
from realnet.roles.weights.layout import digest, fill, layout, tensors

__all__ = [
    "ArenaSlots",
    "WeightReader",
    "WeightsDamaged",
    "WeightsGone",
    "digest",
    "fill",
    "layout",
    "tensors",
]
