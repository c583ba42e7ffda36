"""Builds the learner that a topology's tables describe: whole in this process, or cut over a gang.

Imports torch. Called by the trainer, in its compute thread.
"""

from __future__ import annotations

from pathlib import Path

from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.beginning import built_as
from realnet.roles.trainer.fsdp.crew import Crew, Tell
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import LearnerConfig


def build_learner(
    policy: Policy,
    config: LearnerConfig,
    base: Path,
    checkpoints: Path,
    steps: int,
    ranks: int,
    tell: Tell,
) -> tuple[Learner, str]:
    """Return a learner, and in words the checkpoint of another run whose weights it begins with.

    `steps` is where a schedule of lr ends; the `ranks` of a gang are reached by `tell`.
    """
    tokenizer = load_tokenizer(policy, base)
    policy, told = built_as(policy, base, checkpoints)
    if config.backend == "fsdp":
        from realnet.roles.trainer.fsdp.learner import ShardedLearner

        crew = Crew(ranks, tell)
        return ShardedLearner(policy, config, tokenizer, base, steps, crew), told
    return Learner(policy, config, tokenizer, base, horizon=steps), told
