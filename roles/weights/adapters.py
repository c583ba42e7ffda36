"""Versions of adapters: what they consist of, and what they become when they are laid over a base.

A policy that trains adapters publishes its frozen weights once, as a version of a policy of their
own ("policy:base"), and from then on the adapters alone. Whoever needs whole weights puts the two
together: names and places are decided here, the sums are in `merging.py`.

Knows records and layouts; knows nothing of memory or of links. Called by the trainer (names),
the parameter server and relays (which base) and `intake.py` (the whole).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from realnet.errors import RealnetError
from realnet.roles.messages import Held, Manifest, Over, Tensor, Version
from realnet.roles.weights.layout import layout

DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # [rank, inputs], [outputs, rank]
_BASE = ":base"


class Pair(NamedTuple):
    """A weight of the base, and the two matrices that are laid over it, if there are."""

    base: Tensor
    down: Tensor | None
    up: Tensor | None


def base_version(version: Version) -> Version:
    """Return the name of the base that is published with a version, the first of its branch."""
    return Version(f"{version.policy}{_BASE}", version.branch, 0)


def is_base(version: Version) -> bool:
    """Tell whether a version is no policy's, but a base."""
    return version.policy.endswith(_BASE)


def memory_name(version: Version) -> str:
    """Return what the memory of such versions is called."""
    policy = version.policy.removesuffix(_BASE)
    return f"base-{policy}" if is_base(version) else f"weights-{policy}"


def base_of(over: Over, bases: Iterable[Held]) -> Held | None:
    """Return where the base of a version is held, if it is."""
    return next((held for held in bases if held.manifest.digest == over.digest), None)


def whole_layout(base: Manifest, adapters: Manifest) -> Manifest:
    """Return how the whole weights lie, digests left empty. Raises RealnetError without `over`."""
    over = _over(adapters)
    return layout(adapters.version, ((t.name, over.dtype, t.shape) for t in base.tensors))


def pairs(base: Manifest, adapters: Manifest) -> list[Pair]:
    """Return every weight of the base, in its order, with what is laid over it.

    Raises RealnetError for adapters that do not fit this base.
    """
    over = _over(adapters)
    given = {t.name: t for t in adapters.tensors}
    found = []
    for tensor in base.tensors:
        stem = tensor.name.removesuffix(".weight")
        pair = Pair(tensor, given.pop(stem + DOWN, None), given.pop(stem + UP, None))
        if pair.down is not None or pair.up is not None:
            _check(adapters.version, pair, over.rank)
        found.append(pair)
    if given:
        raise RealnetError(
            f"{adapters.version} has {sorted(given)[0]}, and its base has no weight for it: the "
            "base is another model's"
        )
    return found


def _check(version: Version, pair: Pair, rank: int) -> None:
    shape = pair.base.shape
    down = pair.down.shape if pair.down is not None else ()
    up = pair.up.shape if pair.up is not None else ()
    if len(shape) != 2 or (down, up) != ((rank, shape[1]), (shape[0], rank)):
        raise RealnetError(
            f"{version} lays {list(up)} x {list(down)} over {pair.base.name} {list(shape)} with "
            f"rank {rank}: the base is another model's"
        )


def _over(adapters: Manifest) -> Over:
    if adapters.over is None:
        raise RealnetError(f"{adapters.version} is whole: it is laid over nothing")
    return adapters.over
