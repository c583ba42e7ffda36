"""The generator's half of a canary: the same tokens scored by what was loaded, and the verdict.

Knows records and arithmetic; knows no engine. Called by the generator after a swap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realnet.errors import ConfigError
from realnet.roles.messages import Canary, Floats, Ints, Manifest, Over, Version

MOST = 1e-4
"""The largest difference of a log-probability where both sides compute in fp32."""
MOST_KL = 2e-2
"""The mean of exp(d) - 1 - d over the tokens, d the difference, where one of them rounds to bf16:
100 times what bf16 itself makes of it (measured: 1e-4), and 1/100 of what a wrong layer does."""


class CanaryFailed(ConfigError):
    """Trainer and generator do not have the same policy. Ends the run: no restart mends it."""


def sequences_of(canary: Canary) -> list[Ints]:
    """Return the tokens to score."""
    return [np.array(ids, np.int32) for ids in canary.sequences]


def judge(canary: Canary, scored: Sequence[Floats], version: Version, where: str) -> float:
    """Return by how much the two differ; raise CanaryFailed, with both numbers, if it is too much.

    `where` names the generator.
    """
    theirs = np.concatenate([np.array(row, np.float64) for row in canary.logprobs])
    ours = np.concatenate([np.asarray(row, np.float64) for row in scored])
    gap = np.nan_to_num(ours - theirs, nan=np.inf)
    worst = int(np.abs(gap).argmax())
    # What is far apart is far enough apart at 30 nats: more overflows.
    found = float(np.abs(gap).max()) if canary.exact else float(_kl(np.clip(gap, -30, 30)))
    bound, what = (MOST, "differ by") if canary.exact else (MOST_KL, "have a mean KL of")
    if found <= bound:
        return found
    raise CanaryFailed(
        f"canary of {version}: the trainer gives a token log-probability {theirs[worst]:.6g}, "
        f"{where} gives it {ours[worst]:.6g}; they {what} {found:.3g}, allowed is {bound:g}. "
        "Tokens of this generator would be trained on as if they were of another policy: compare "
        "model, dtype and engine of the two"
    )


def judge_whole(over: Over, whole: Manifest, where: str) -> None:
    """Raise CanaryFailed unless adapters and base made, bit for bit, what the trainer made of them.

    A trainer that said no digest of its own proves by its scores alone.
    """
    if over.whole_digest and over.whole_digest != whole.digest:
        raise CanaryFailed(
            f"canary of {whole.version}: laid over its base it has digest {over.whole_digest} at "
            f"the trainer, {where} made {whole.digest} of it. The sums are the same on every "
            "machine: another realnet is at work on one of the two"
        )


def _kl(gap: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.mean(np.expm1(gap) - gap))
