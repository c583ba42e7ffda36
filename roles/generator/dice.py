"""Random numbers that belong to a request: number k of a seed is the same whoever asks for it.

So a request draws the same tokens whichever rows it shares an engine with, and goes on the same way
after it was moved to another engine.

Knows numpy, no torch. Called by both engines.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(
    seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.int64], steps: int
) -> npt.NDArray[np.float64]:
    """Return [steps, n] numbers in [0, 1): row i's are numbers indices[i], indices[i] + 1, ….

    splitmix64 of seed and index. 52 bits, so that the largest times any sum stays below that sum.
    """
    index = indices.astype(np.uint64) + np.arange(1, steps + 1, dtype=np.uint64)[:, None]
    bits = _scramble(_scramble(seeds + _GOLDEN) + index * _GOLDEN)
    return np.asarray((bits >> np.uint64(12)).astype(np.float64) * 2.0**-52)


def _scramble(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return np.asarray(z ^ (z >> np.uint64(31)))
