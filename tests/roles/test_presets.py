"""Presets: what a name stands for, that opened tables read back, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realnet.config import read_table, to_plain
from realnet.errors import ConfigError
from realnet.roles.algorithms.presets import PRESETS, Contradiction, Loss, expand, opened
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner_config import LearnerConfig, check_rule
from realnet.topology import read_source, resolve
from realnet.topology.show import describe

NAMES: Any = tuple(PRESETS)


def policy(**fields: Any) -> Policy:
    return Policy(**{"model": "new:llama", "max_age": 0, **fields})


def test_presets_stand_for_their_papers() -> None:
    rules = {name: expand(name, Loss()) for name in NAMES}
    assert (rules["grpo"].advantage, rules["grpo"].normalise) == ("grpo", "sequences")
    assert (rules["dr_grpo"].normalise, rules["dr_grpo"].normalise_by) == ("constant", "max_tokens")
    dapo = rules["dapo"]
    assert (dapo.clip, dapo.normalise) == ((0.2, 0.28), "tokens")
    assert (dapo.dynamic_sampling, dapo.overlong, dapo.overlong_penalty) == (True, 0.2, 1.0)
    assert (rules["gspo"].ratio, rules["gspo"].clip) == ("sequence", (3e-4, 4e-4))
    assert (rules["cispo"].objective, rules["cispo"].weight) == ("cispo", "off")
    tis = rules["tis"]
    assert (tis.clip, tis.proximal, tis.weight, tis.weight_cap) == (None, "current", "clamp", 2.0)
    assert all(rule.kl == "off" for rule in rules.values())


@pytest.mark.parametrize("name", NAMES)
def test_an_opened_table_says_all_and_reads_back_under_any_name(name: Any) -> None:
    rule = expand(name, Loss())
    shown = opened(rule)
    assert all(expand(other, shown) == rule for other in NAMES)
    assert shown.advantage is not None
    assert (shown.clip is None) == (rule.proximal == "current")
    assert (shown.weight_cap is None) == (rule.weight == "off")


def test_a_trainers_table_shows_what_its_algorithm_does() -> None:
    """What a plan keeps, and `realnet explain` prints, is the opened table."""
    config = read_table(LearnerConfig, {"algorithm": "dapo", "loss": {"clip": [0.1, 0.3]}}, "t")
    plain = to_plain(config)
    assert plain["loss"]["clip"] == (0.1, 0.3)
    assert plain["loss"]["overlong"] == 0.2
    assert plain["loss"]["kl_beta"] is None
    again = read_table(LearnerConfig, plain, "plan.json")
    assert again == config
    assert again.rule == expand("dapo", Loss(clip=(0.1, 0.3)))


def test_a_kl_in_the_reward_is_unbiased_unless_said_otherwise() -> None:
    assert expand("rloo", Loss(kl="reward", kl_beta=0.1)).kl_estimator == "k1"
    assert expand("rloo", Loss(kl="loss", kl_beta=0.1)).kl_estimator == "k3"


def test_weights_come_back_with_a_ratio_that_needs_them() -> None:
    assert expand("cispo", Loss()).weight == "off"
    assert expand("cispo", Loss(proximal="recompute")).weight == "mask"
    assert expand("rloo", Loss(proximal="behave")).weight == "off"
    assert expand("rloo", Loss(proximal="loglinear")).weight == "mask"


@pytest.mark.parametrize(
    ("loss", "keys"),
    [
        (Loss(proximal="behave", weight="mask"), ("loss.proximal", "loss.weight")),
        (Loss(proximal="behave", weight_cap=2.0), ("loss.proximal", "loss.weight_cap")),
        (Loss(weight="off", weight_cap=2.0), ("loss.weight", "loss.weight_cap")),
        (Loss(weight="off", weight_level="sequence"), ("loss.weight", "loss.weight_level")),
        (Loss(weight_cap=1.0), ("loss.weight_cap",)),
        (Loss(weight_floor=1.0), ("loss.weight_floor",)),
        (Loss(proximal="current", clip=(0.2, 0.2)), ("loss.proximal", "loss.clip")),
        (Loss(proximal="current", objective="cispo"), ("loss.proximal", "loss.objective")),
        (Loss(proximal="current", ratio="sequence"), ("loss.proximal", "loss.ratio")),
        (Loss(proximal="current", dual_clip=3.0), ("loss.proximal", "loss.dual_clip")),
        (Loss(clip=(0.0, 0.2)), ("loss.clip",)),
        (Loss(clip=(1.0, 0.2)), ("loss.clip",)),
        (Loss(clip=(0.2, -0.1)), ("loss.clip",)),
        (Loss(dual_clip=1.1), ("loss.dual_clip", "loss.clip")),
        (Loss(behave_clip=(0.0, 0.2)), ("loss.behave_clip", "[low, high]")),
        (
            Loss(behave_clip=(0.2, 0.2), proximal="behave"),
            ("loss.behave_clip", "loss.clip", "loss.proximal"),
        ),
        (Loss(objective="cispo", dual_clip=3.0), ("loss.dual_clip", "loss.objective")),
        (Loss(normalise="constant"), ("loss.normalise", "loss.normalise_by")),
        (Loss(normalise="tokens", normalise_by=9), ("loss.normalise", "loss.normalise_by")),
        (Loss(normalise="constant", normalise_by=0), ("loss.normalise_by",)),
        (Loss(kl="loss"), ("loss.kl", "loss.kl_beta")),
        (Loss(kl="reward", kl_beta=0.0), ("loss.kl", "loss.kl_beta")),
        (Loss(kl_beta=0.1), ("loss.kl", "loss.kl_beta")),
        (Loss(kl_estimator="k2"), ("loss.kl", "loss.kl_estimator")),
        (Loss(kl="loss", kl_beta=0.1, kl_estimator="k1"), ("loss.kl", "loss.kl_estimator")),
        (Loss(overlong=1.5), ("loss.overlong",)),
        (Loss(overlong_penalty=1.0), ("loss.overlong", "loss.overlong_penalty")),
        (Loss(overlong=0.2, overlong_penalty=0.0), ("loss.overlong_penalty",)),
        (Loss(mean_between=(0.1, 0.9)), ("loss.mean_between", "loss.dynamic_sampling")),
        (Loss(dynamic_sampling=True, mean_between=(0.9, 0.1)), ("loss.mean_between",)),
    ],
)
def test_contradictions_are_refused_and_name_their_keys(loss: Loss, keys: tuple[str, ...]) -> None:
    with pytest.raises(Contradiction) as caught:
        expand("grpo", loss)
    assert all(key in str(caught.value) for key in keys)


def test_a_ratio_never_goes_without_a_bound() -> None:
    assert expand("tis", Loss()).clip is None
    assert expand("tis", Loss(proximal="recompute")).clip == (0.2, 0.2)


def test_a_kl_needs_a_reference() -> None:
    table = {"loss": {"kl": "reward", "kl_beta": 0.1}}
    with pytest.raises(ConfigError, match=r"\[roles\.trainer\].*loss\.kl.*reference = \"start\""):
        read_table(LearnerConfig, table, "t.toml: [roles.trainer]")
    assert read_table(LearnerConfig, {**table, "reference": "start"}, "t").rule.kl == "reward"


def test_weights_are_not_off_by_accident() -> None:
    loose = LearnerConfig(loss=Loss(weight="off"))
    check_rule(loose, policy(max_age=0))
    with pytest.raises(Contradiction, match=r"loss\.weight.*loss\.proximal.*max_age"):
        check_rule(loose, policy(max_age=1))
    for name in NAMES:
        check_rule(LearnerConfig(algorithm=name), policy(max_age=4))


def test_one_answer_alone_is_refused_where_answers_are_compared() -> None:
    for name in ("grpo", "rloo", "reinforce_pp_baseline", "dapo"):
        with pytest.raises(Contradiction, match=r"\[policy\]\.group = 1"):
            check_rule(LearnerConfig(algorithm=name), policy(group=1))  # type: ignore[arg-type]
    check_rule(LearnerConfig(algorithm="reinforce_pp"), policy(group=1))


def test_other_half_set_tables_are_refused() -> None:
    with pytest.raises(Contradiction, match=r"lr_end.*schedule"):
        LearnerConfig(lr_end=0.1)
    with pytest.raises(Contradiction, match=r"autocast.*dtype"):
        check_rule(LearnerConfig(autocast="bf16"), policy(dtype="bf16"))


def test_a_plan_tells_a_preset_with_all_its_fields() -> None:
    topology = Path(__file__).parents[2] / "topologies" / "demo.toml"
    told = describe(resolve(read_source(topology, ("roles.trainer.loss.proximal=loglinear",))))
    about = " ".join(told.partition("roles.trainer.loss\n")[2].split())
    assert about.startswith('advantage = "rloo", objective = "clip"')
    assert 'proximal = "loglinear", weight = "mask", weight_cap = 5.0' in about
