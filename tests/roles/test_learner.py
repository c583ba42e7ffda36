"""The learner: what carries gradient, what a step undoes, and that a saved one goes on exactly."""

from __future__ import annotations

import copy
import errno
import json
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realnet.config import read_table
from realnet.errors import CheckpointError, ConfigError
from realnet.roles.algorithms.presets import PRESETS, Loss, expand
from realnet.roles.messages import (
    Group,
    Rollout,
    SampleKey,
    Scored,
    Segment,
    Span,
    TicketKey,
    Version,
)
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner import Learner, NonFinite
from realnet.roles.trainer.learner_batch import BadRollout, Batch, give_credit, lay_out
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.learner_optimizers import AdamW
from realnet.roles.trainer.learner_pass import Scorer
from realnet.roles.trainer.learner_step import Step

SHAPE: dict[str, int | float | bool] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
}
NOW = Version("p", 0, 7)
FREE = Loss(behave_clip=(1.0, float("inf")))  # made-up log-probabilities are far from the model's
NO_FLOATS = np.zeros(0, np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learner(policy: dict[str, Any] | None = None, **config: Any) -> Learner:
    table: dict[str, Any] = {"model": "new:llama", "tokenizer": "new:chars", "shape": SHAPE}
    settled = Policy(**{**table, "max_age": 1, "max_tokens": 16, **(policy or {})})
    return Learner(settled, LearnerConfig(**{"lr": 1e-2, **config}), Tokenizer.new_chars(), Path())


def age(version: Version) -> int:
    return NOW.number - version.number


def ints(values: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(values, np.int32)


def prompt(*ids: int) -> Segment:
    return Segment("prompt", ints(ids), NO_FLOATS)


def tool(*ids: int) -> Segment:
    return Segment("tool", ints(ids), NO_FLOATS)


def written(ids: Sequence[int], logprob: float = -3.5, ages: Sequence[int] = (0,)) -> Segment:
    """Return a model's segment; `ages` are those of equal stretches of it, oldest first."""
    cuts = np.array_split(np.arange(len(ids)), len(ages))
    spans = tuple(
        Span(Version("p", 0, NOW.number - a), len(c)) for a, c in zip(ages, cuts, strict=True)
    )
    logprobs = np.full(len(ids), logprob, np.float32)
    return Segment("model", ints(ids), logprobs, spans, learn=True)


def scored(ticket: int, sample: int, reward: float | None, *segments: Segment) -> Scored:
    key = SampleKey(TicketKey("p", ticket), sample)
    return Scored(Rollout(key, "t", "", "", "", segments, "stop"), reward)


def group(ticket: int, *members: Scored) -> Group:
    return Group(TicketKey("p", ticket), members)


def batch(tickets: int = 4, size: int = 4, seed: int = 0, **kind: Any) -> list[Group]:
    """Return groups of random answers with mixed rewards."""
    rng = np.random.default_rng(seed)
    groups = []
    for t in range(tickets):
        question = rng.integers(4, 30, 3).tolist()
        members = []
        for s in range(size):
            ids = rng.integers(4, 30, rng.integers(2, 9)).tolist()
            members.append(scored(t, s, float(s % 2), prompt(*question), written(ids, **kind)))
        groups.append(group(t, *members))
    return groups


def make_batch(groups: Sequence[Group], oldest: int | None) -> Batch:
    rule = expand("rloo", Loss())
    made = lay_out(groups, age, oldest, rule, 16)
    give_credit(made, rule)
    return made


def state(of: Learner) -> dict[str, torch.Tensor]:
    return {n: w.detach().clone() for n, w in of.named}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def gradient(of: Learner, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
    """Return the gradient of a step's only update, before clipping."""
    caught: dict[str, torch.Tensor] = {}

    def catch() -> None:
        caught.update({n: w.grad.clone() for n, w in of.named if w.grad is not None})

    of.optimizer.update = catch  # type: ignore[method-assign]
    of.step(groups, NOW, age)
    return caught


def one_update(**config: Any) -> Learner:
    return learner(minibatches=1, grad_clip=0.0, **config)


# ---------------------------------------------------------------- the forward pass


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_logprobs_of_rows_together_are_those_of_each_row_alone(layout: Any) -> None:
    model = learner().model
    rows = [
        (np.array([5, 6, 7, 8, 9, 10]), np.array([3, 5])),
        (np.array([11, 12, 13]), np.array([1, 2])),
    ]
    together = Scorer(model, 0.7, layout).logprobs(rows)
    logits = [model(input_ids=torch.tensor(ids)[None]).logits[0] for ids, _ in rows]
    expected = [
        torch.log_softmax(out[t - 1] / 0.7, -1)[ids[t]]
        for out, (ids, where) in zip(logits, rows, strict=True)
        for t in where
    ]
    assert torch.allclose(together, torch.stack(expected), atol=1e-5)


# ---------------------------------------------------------------- what carries gradient


@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
@pytest.mark.parametrize("proximal", ["recompute", "behave"])
def test_micro_batches_do_not_change_the_gradient(normalise: Any, proximal: Any) -> None:
    by = "max_tokens" if normalise == "constant" else None
    loss = Loss(normalise=normalise, normalise_by=by, proximal=proximal)
    groups = batch()
    whole = gradient(one_update(loss=loss, micro_tokens=100_000), groups)
    for budget in (1, 17, 40):
        parts = gradient(one_update(loss=loss, micro_tokens=budget), groups)
        assert parts.keys() == whole.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(parts[name], expected, rtol=1e-4, atol=1e-7)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-4


def test_an_answer_that_ends_with_a_tool_keeps_its_outcome() -> None:
    end = tool(20, 21)
    ask, more = prompt(5, 6), written([12, 13])
    calls = group(
        0,
        scored(0, 0, 1.0, ask, written([10, 11]), tool(14, 15), more, end),
        scored(0, 1, 0.0, ask, written([16, 17, 18]), end),
    )
    batch_ = make_batch([calls], 1)
    first, second = batch_.samples
    assert first.advantage.tolist() == [1.0] * 4
    assert first.where.tolist() == [2, 3, 6, 7]
    assert second.where.tolist() == [2, 3, 4]
    assert first.ids.tolist() == [5, 6, 10, 11, 14, 15, 12, 13, 20, 21]
    cut = group(
        0,
        scored(0, 0, 1.0, ask, written([10, 11]), tool(14, 15), more),
        scored(0, 1, 0.0, ask, written([16, 17, 18])),
    )
    with_end, without = gradient(one_update(), [calls]), gradient(one_update(), [cut])
    for name, expected in without.items():
        torch.testing.assert_close(with_end[name], expected)
    assert any(float(g.abs().max()) > 0.0 for g in without.values())


def test_old_tokens_carry_no_gradient_and_are_counted() -> None:
    ids = [10, 11, 12, 13, 14, 15]
    mixed = group(
        0,
        scored(0, 0, 1.0, prompt(5), written(ids, ages=(3, 1, 0))),
        scored(0, 1, 0.0, prompt(5), written([20, 21], ages=(2,))),
    )
    held = make_batch([mixed], 1)
    assert held.samples[0].where.tolist() == [3, 4, 5, 6]
    assert held.samples[0].counted == 6
    assert not held.samples[1].teaches
    signs = held.signs
    assert (signs["tokens"], signs["tokens_masked"]) == (8.0, 0.5)
    assert [signs[f"age_{a}"] for a in range(4)] == [0.25, 0.25, 0.25, 0.25]
    free = make_batch([mixed], None)
    assert free.samples[0].where.tolist() == [1, 2, 3, 4, 5, 6]
    assert free.signs["tokens_masked"] == 0.0


def test_over_age_allow_trains_what_mask_leaves_alone() -> None:
    old = batch(ages=(2,))
    masking, before = learner(), state(learner())
    signs = masking.step(old, NOW, age)
    assert signs["tokens_masked"] == 1.0
    assert signs["updates"] == 0.0
    assert same(state(masking), before)
    allowing = learner({"over_age": "allow"})
    assert allowing.step(old, NOW, age)["tokens_trained"] > 0
    assert not same(state(allowing), before)


def test_masked_tokens_do_not_make_the_others_weigh_more() -> None:
    ask = prompt(5)

    def pair(ages: tuple[int, ...]) -> list[Group]:
        first = scored(0, 0, 1.0, ask, written([10, 11, 12, 13]))
        return [group(0, first, scored(0, 1, 0.0, ask, written([20, 21, 22, 23], ages=ages)))]

    # the second answer teaches nothing when it is too old; the first one's share stays 4 of 8
    masked = gradient(one_update(loss=FREE), pair((9,)))
    alone = gradient(one_update(loss=FREE), pair((0,)))
    mirrored = [group(0, *reversed(pair((0,))[0].scored))]
    assert masked.keys() == alone.keys()
    torch.testing.assert_close(
        gradient(one_update(loss=FREE), mirrored)["model.norm.weight"], alone["model.norm.weight"]
    )
    only_second = {n: alone[n] - masked[n] for n in alone}
    assert any(float(g.abs().max()) > 1e-5 for g in only_second.values())
    half = learner({"over_age": "allow"}, minibatches=1, grad_clip=0.0, loss=FREE)
    flipped = [
        group(
            0,
            scored(0, 0, 1.0, ask, written([10, 11, 12, 13])),
            scored(0, 1, 0.0, ask, written([20, 21, 22, 23], logprob=-90.0)),
        )
    ]
    # the same second answer, dropped by the weight cap instead of its age: the same gradient
    by_cap = gradient(half, flipped)
    for name, expected in masked.items():
        torch.testing.assert_close(by_cap[name], expected)


@pytest.mark.parametrize(
    "members",
    [
        (),
        (scored(0, 0, 1.0, prompt(5), written([7, 8])),),
        tuple(scored(0, i, 1.0, prompt(5), written([7, 8 + i])) for i in range(3)),
        tuple(scored(0, i, None, prompt(5), written([7, 8 + i])) for i in range(3)),
    ],
    ids=["empty", "one", "equal", "unscored"],
)
def test_groups_that_teach_nothing_change_nothing(members: tuple[Scored, ...]) -> None:
    one = learner()
    before = state(one)
    signs = one.step([group(0, *members)], NOW, age)
    assert same(state(one), before)
    assert all(np.isfinite(v) for v in signs.values())
    assert (signs["groups_equal"], signs["updates"], signs["loss"]) == (1.0, 0.0, 0.0)


def test_unscored_answers_do_not_change_the_gradient() -> None:
    groups = batch(1)
    fault = scored(0, 9, None, prompt(5), written([7, 8, 9]))
    with_fault = [group(0, *groups[0].scored, fault)]
    plain, other = gradient(one_update(), groups), gradient(one_update(), with_fault)
    for name, expected in plain.items():
        torch.testing.assert_close(other[name], expected)


def test_good_answers_become_likelier() -> None:
    one = learner({"max_age": 0})
    groups = batch(2)

    def gap() -> float:
        sums = [0.0, 0.0]
        for s in make_batch(groups, 0).samples:
            with torch.no_grad():
                logp = one.scorer.logprobs([s.row])
            sums[int(s.advantage[0] > 0)] += float(logp.mean())
        return sums[1] - sums[0]

    before = gap()
    signs = one.step(groups, NOW, age)
    assert gap() > before
    assert signs["reward"] == signs["solved"] == 0.5
    assert signs["grad_norm"] > 0.0
    assert signs["updates"] == 2.0
    assert 0.0 < signs["ess"] <= 1.0
    assert signs["age_0"] == 1.0


# ---------------------------------------------------------------- precise gradients


def exact(**config: Any) -> Learner:
    """Return a learner in float64: what differs there is not rounding."""
    made = one_update(**config)
    made.model.double()
    made.optimizer = AdamW(made.named, 1e-2, (0.9, 0.99), 1e-8, 0.0)
    return made


def close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Tell whether two gradients differ by less than 1e-6 of their size."""
    size = max(float(g.abs().max()) for g in expected.values())
    far = max(float((got[n] - g).abs().max()) for n, g in expected.items())
    return got.keys() == expected.keys() and size > 1e-4 and far < 1e-6 * size


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
def test_any_cut_and_layout_gives_the_same_gradient(name: Any, normalise: Any) -> None:
    by = 12 if normalise == "constant" else None
    fields: dict[str, Any] = {"algorithm": name, "loss": Loss(normalise=normalise, normalise_by=by)}
    groups = batch(3, seed=5, ages=(1, 0))
    whole = gradient(exact(micro_tokens=100_000, rows="padded", **fields), groups)
    for budget, rows in ((1, "packed"), (17, "packed"), (40, "padded"), (100_000, "packed")):
        assert close(gradient(exact(micro_tokens=budget, rows=rows, **fields), groups), whole)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("heads", [1, 4])
def test_packed_rows_are_the_padded_ones(family: str, heads: int) -> None:
    shape = {**SHAPE, "num_attention_heads": 4, "num_key_value_heads": heads, "hidden_size": 32}
    one = learner({"model": f"new:{family}", "shape": shape})
    assert one.scorer.packed
    rng = np.random.default_rng(0)
    rows = []
    for length in (2, 60, 3, 31, 9, 58, 2, 120):
        where = np.sort(rng.choice(np.arange(1, length), (length + 1) // 3, replace=False))
        rows.append((rng.integers(4, 30, length), where))
    packed = one.scorer.logprobs(rows)
    padded = Scorer(one.model, 1.0, "padded").logprobs(rows)
    alone = torch.cat([Scorer(one.model, 1.0, "padded").logprobs([row]) for row in rows])
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


def test_answers_to_one_prompt_are_laid_behind_one_copy_of_it() -> None:
    one = learner({"shape": {**SHAPE, "num_hidden_layers": 2}})
    asked = np.array([5, 6, 7, 8])
    rows = [(np.append(asked, more), np.arange(4, 4 + len(more))) for more in ([9, 10, 11], [12])]
    rows += [(np.array([5, 6, 7, 9, 9]), np.array([3, 4]))]  # of another prompt
    rows += [
        (np.append(asked, [13, 14]), np.array([4, 5])),
        (np.append(asked, [9, 9]), np.array([5])),
    ]
    laid: list[torch.Tensor] = []
    inner = one.model.base_model
    heard = inner.register_forward_pre_hook(
        lambda _, __, named: laid.append(named["input_ids"]), with_kwargs=True
    )
    together = one.scorer.logprobs(rows)
    heard.remove()
    # what is read of each: 4 + 2, nothing more, 4 of the other, 1 more, and 5 of what has no equal
    assert [len(row) for row in laid[0]] == [6 + 0 + 4 + 1 + 5]
    alone = torch.cat([one.scorer.logprobs([row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    one.scorer.micro_tokens = 13
    assert one.scorer.parts(rows) == [[0, 1, 3, 2], [4]]  # answers to one prompt stay together


def test_a_model_with_windows_is_padded() -> None:
    windowed = learner().model
    windowed.config.layer_types = ["sliding_attention"]
    assert not Scorer(windowed, 1.0, "packed").packed


def test_an_export_says_nothing_of_how_it_was_trained(tmp_path: Path) -> None:
    one = learner()
    one.export(tmp_path / "out")
    assert "packed" not in (tmp_path / "out" / "config.json").read_text()


# ---------------------------------------------------------------- the reference


def far_reference(tmp_path: Path, **config: Any) -> Learner:
    """Return a learner whose reference is its own start, some steps ago."""
    one = learner(reference="start", minibatches=1, grad_clip=0.0, lr=3e-2, **config)
    one.refer(tmp_path)
    for seed in (7, 8):
        one.step(batch(seed=seed), NOW, age)
    return one


def test_at_the_start_there_is_no_distance_and_then_there_is(tmp_path: Path) -> None:
    one = learner(reference="start", minibatches=1, lr=3e-2)
    one.refer(tmp_path)
    signs = [one.step(batch(seed=s), NOW, age)["kl_ref"] for s in range(3)]
    assert signs[0] == pytest.approx(0.0, abs=1e-7)
    assert signs[1] > 1e-6
    assert "kl_ref" not in learner().step(batch(), NOW, age)


def test_a_kl_holds_the_policy_near_its_reference(tmp_path: Path) -> None:
    loss = Loss(kl="loss", kl_beta=0.5)
    held = far_reference(tmp_path / "a", loss=loss)
    free = far_reference(tmp_path / "b")
    last = [one.step(batch(seed=9), NOW, age)["kl_ref"] for one in (held, free)]
    assert 0.0 < last[0] < last[1]


def test_a_kl_in_the_loss_moves_answers_without_an_advantage(tmp_path: Path) -> None:
    equal = [group(0, *(scored(0, i, 1.0, prompt(5), written([7, 8 + i])) for i in range(3)))]
    one = far_reference(tmp_path, loss=Loss(kl="loss", kl_beta=0.5))
    before = state(one)
    assert one.step(equal, NOW, age)["updates"] == 1.0
    assert not same(state(one), before)


def test_a_kl_in_the_reward_is_taken_off_where_it_stands(tmp_path: Path) -> None:
    loss = Loss(kl="reward", kl_beta=0.5, kl_estimator="k1")
    one = far_reference(tmp_path, loss=loss, algorithm="reinforce_pp")
    made = lay_out(batch(1, seed=3), age, 1, one.rule, 16)
    step = Step(one, made.samples)
    reference, penalties = step._reference, step.penalties()
    assert penalties is not None
    for i, sample in enumerate(made.samples):
        expected = 0.5 * (sample.behave - reference[i])
        np.testing.assert_allclose(penalties[i], expected, atol=1e-6)
    give_credit(made, one.rule, penalties)
    assert all(len(set(s.advantage.tolist())) == len(s.where) for s in made.samples)


def test_the_reference_of_the_start_survives_a_resume(tmp_path: Path) -> None:
    loss = Loss(kl="loss", kl_beta=0.5)
    one = far_reference(tmp_path, loss=loss)
    one.save(tmp_path / "saved")
    other = learner(reference="start", minibatches=1, grad_clip=0.0, lr=3e-2, loss=loss)
    other.load(tmp_path / "saved")
    other.refer(tmp_path)
    assert other.step(batch(), NOW, age) == one.step(batch(), NOW, age)
    (tmp_path / "reference.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"reference\.safetensors does not read"):
        other.refer(tmp_path)


def test_a_reference_may_be_a_folder_of_the_same_shape(tmp_path: Path) -> None:
    trained = learner()
    trained.step(batch(), NOW, age)
    trained.export(tmp_path / "m")
    one = learner(reference=str(tmp_path / "m"))
    one.refer(tmp_path)
    assert one.reference is not None
    assert same(dict(one.reference.model.named_parameters()), state(trained))
    other = learner({"shape": {**SHAPE, "hidden_size": 32}}, reference=str(tmp_path / "m"))
    with pytest.raises(ConfigError, match=r"reference.*must be a model like the policy's"):
        other.refer(tmp_path)


# ---------------------------------------------------------------- rates and precision


def test_the_rate_follows_the_schedule_and_a_resume(tmp_path: Path) -> None:
    table = {"schedule": "linear", "warm_up": 1, "lr": 1.0, "lr_end": 0.0}
    one = learner(**table)
    one.horizon = 5
    rates = [one.step(batch(), NOW, age)["lr"] for _ in range(3)]
    assert rates == pytest.approx([0.5, 1.0, 0.75])
    one.save(tmp_path)
    again = learner(**table)
    again.horizon = 5
    again.load(tmp_path)
    assert again.step(batch(), NOW, age)["lr"] == pytest.approx(0.5)


def test_autocast_computes_coarsely_and_updates_finely() -> None:
    plain, coarse = one_update(), one_update(autocast="bf16")
    expected, got = gradient(plain, batch()), gradient(coarse, batch())
    assert all(g.dtype is torch.float32 for g in got.values())
    size = max(float(g.abs().max()) for g in expected.values())
    far = max(float((got[n] - expected[n]).abs().max()) for n in expected)
    assert 0.0 < far < 0.1 * size


# ---------------------------------------------------------------- shaping


def test_long_and_cut_off_answers() -> None:
    def pair(*lengths: int) -> list[Group]:
        members = [scored(0, i, 1.0, prompt(5), written([9] * n)) for i, n in enumerate(lengths)]
        cut = Rollout(
            members[1].rollout.key, "t", "", "", "", members[1].rollout.segments, "length"
        )
        return [group(0, members[0], Scored(cut, 1.0))]

    rule = expand("rloo", Loss(overlong=0.25, overlong_penalty=1.0))
    shaped = lay_out(pair(4, 16), age, 1, rule, 16)
    give_credit(shaped, rule)
    assert [s.worth for s in shaped.samples] == [1.0, 0.0]
    assert [s.advantage[0] for s in shaped.samples] == [1.0, -1.0]
    assert (shaped.signs["reward"], shaped.signs["overlong"]) == (1.0, 0.5)
    assert shaped.signs["truncated"] == 0.5
    masking = expand("rloo", Loss(overlong=0.25, truncated="mask"))
    masked = lay_out(pair(4, 16), age, 1, masking, 16)
    give_credit(masked, masking)
    assert [(s.teaches, s.counted) for s in masked.samples] == [(True, 4), (False, 16)]


# ---------------------------------------------------------------- bad input


def test_a_step_that_is_not_finite_is_undone() -> None:
    one, twin = learner(minibatches=7), learner(minibatches=7)
    broken = batch(1, logprob=float("nan"))[0]
    for each in (one, twin):
        each.step(batch(seed=1), NOW, age)
    before = state(one)
    poisoned = [*batch(3), group(8, *broken.scored[:2])]
    applied: list[int] = []
    update = one.optimizer.update

    def count() -> None:
        applied.append(1)
        update()

    one.optimizer.update = count  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match=r"p v0\.7"):
        one.step(poisoned, NOW, age)
    assert len(applied) >= 1  # so there was something to undo
    assert same(state(one), before)
    signs, expected = (each.step(batch(seed=2), NOW, age) for each in (one, twin))
    assert signs == expected
    assert same(state(one), state(twin))


def test_tokens_without_versions_are_refused_by_name() -> None:
    ids = ints([7, 8])
    bad = Segment("model", ids, np.zeros(2, np.float32), (Span(NOW, 1),), learn=True)
    with pytest.raises(BadRollout, match=r"p/3#1: segment 1 has 2 tokens"):
        make_batch([group(3, scored(3, 1, 1.0, prompt(5), bad))], 1)


def test_contradictions_are_told_where_the_table_is_read() -> None:
    table = {"loss": {"weight": "mask", "proximal": "behave"}}
    with pytest.raises(ConfigError, match=r"trainer.*loss\.weight.*loss\.proximal"):
        read_table(LearnerConfig, table, "t.toml: [roles.trainer]")
    config = read_table(LearnerConfig, {"loss": {"clip": [0.2, 0.3]}}, "t.toml: [roles.trainer]")
    assert config.loss.clip == (0.2, 0.3)


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_saved_learner_goes_on_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    batches = [batch(seed=s, ages=(1, 0)) for s in range(3)]
    straight, first, second = (learner({"dtype": dtype}) for _ in range(3))
    for groups in batches:
        last = straight.step(groups, NOW, age)
    for groups in batches[:2]:
        first.step(groups, NOW, age)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.step(batches[2], NOW, age) == last
    assert same(state(second), state(straight))
    assert same(second.optimizer.state(), straight.optimizer.state())
    assert (second.steps, straight.steps) == (3, 3)


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(tmp_path: Path) -> None:
    """Checkpoints tell a full disk, which passes, from everything else by its being an OSError."""
    made = learner()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match=r"large.*model\.safetensors") as caught:
            made.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    one = learner()
    one.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"lm_head|embed_tokens|layers"):
        learner({"shape": {**SHAPE, "hidden_size": 32}}).load(tmp_path)
    with pytest.raises(CheckpointError, match=r"is float32 .*, the policy's model has bfloat16"):
        learner({"dtype": "bf16"}).load(tmp_path)
    learner({"dtype": "bf16"}).save(tmp_path / "coarse")
    with pytest.raises(CheckpointError, match=r"is bfloat16 .*, the policy's model has float32"):
        one.load(tmp_path / "coarse")
    scalars = json.loads((tmp_path / "learner.json").read_text())
    (tmp_path / "learner.json").write_text(json.dumps({**scalars, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        one.load(tmp_path)
    (tmp_path / "learner.json").write_text(json.dumps(scalars))
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="does not read"):
        one.load(tmp_path)


def test_weights_are_named_once_and_bf16_travels_as_bits() -> None:
    plain, coarse = learner().weights(), learner({"dtype": "bf16"}).weights()
    assert [n for n, _, _ in plain] == [n for n, _, _ in coarse]
    assert not any("lm_head" in n for n, _, _ in plain)  # it is the embedding
    assert {(a.dtype.name, kind) for _, a, kind in plain} == {("float32", "float32")}
    assert {(a.dtype.name, kind) for _, a, kind in coarse} == {("uint16", "bfloat16")}


def test_blocks_computed_again_give_the_same_gradient_and_copies_of_their_own() -> None:
    groups = batch()
    kept = gradient(one_update(), groups)
    again = one_update(activations="recompute")
    copied = copy.deepcopy(again.model)
    with torch.no_grad():
        for weight in again.model.parameters():
            weight.mul_(2.0)
    rows = [(np.array([5, 6, 7]), np.array([1, 2]))]
    assert not torch.equal(Scorer(copied).logprobs(rows), Scorer(again.model).logprobs(rows))
    assert same(gradient(one_update(activations="recompute"), groups), kept)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r'\[roles.trainer\].device = "cuda", but .* no GPU'):
        learner(device="cuda")
