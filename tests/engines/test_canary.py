"""Canaries: trainer's half and generator's half agree, and a mistake is told with both numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from engine_rig import POLICY, TOKENIZER, rig, version

from realnet.errors import ConfigError
from realnet.roles.generator.canary import MOST, CanaryFailed, judge, sequences_of
from realnet.roles.messages import Canary
from realnet.roles.models.build import named_weights
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner import Learner, LearnerConfig


def learner(policy: Policy) -> Learner:
    made = Learner(policy, LearnerConfig(), TOKENIZER, Path())
    with_shape = {name: weight for name, weight in named_weights(made.model) if weight.dim() > 1}
    for name, weight in with_shape.items():
        weight.mul_(4 if "embed" not in name else 6)  # far from flat: a mistake shows
    return made


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_a_learner_and_an_engine_agree(temperature: float, tmp_path: Path) -> None:
    policy = msgspec.structs.replace(POLICY, temperature=temperature)
    trainer = learner(policy)
    canary = trainer.canary(version(0))
    assert canary is not None
    assert canary.exact
    assert canary != trainer.canary(version(1))
    async with rig("torch", tmp_path) as made:
        core = made.engine.core  # type: ignore[attr-defined]
        core.stage({name: array for name, array, _ in trainer.weights()}, version(0))
        core.swap()
        scored = await made.engine.score(sequences_of(canary))
        assert judge(canary, scored, version(0), "here") < MOST
        await made.load(2)  # another model
        with pytest.raises(
            CanaryFailed, match=r"canary of policy v0\.0: the trainer gives .*gives"
        ):
            judge(canary, await made.engine.score(sequences_of(canary)), version(0), "here")


def test_both_numbers_are_told_and_it_is_final() -> None:
    canary = Canary(((3, 4, 5),), ((-1.5, -2.5),))
    good = [np.array([-1.5, -2.50005], np.float32)]
    assert judge(canary, good, version(3), "generator/0") < MOST
    with pytest.raises(ConfigError, match=r"log-probability -2\.5, generator/0 gives it -2\.75"):
        judge(canary, [np.array([-1.5, -2.75], np.float32)], version(3), "generator/0")
    for broken in (np.nan, -np.inf, np.inf):
        with pytest.raises(CanaryFailed):
            judge(canary, [np.array([-1.5, broken], np.float32)], version(3), "generator/0")
    rounded = msgspec.structs.replace(canary, exact=False)
    assert 0 < judge(rounded, [np.array([-1.4, -2.6], np.float32)], version(3), "g") < 2e-2
    with pytest.raises(CanaryFailed, match=r"mean KL of .*allowed is 0\.02"):
        judge(rounded, [np.array([-1.5, -4.5], np.float32)], version(3), "generator/0")
