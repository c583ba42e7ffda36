"""What went wrong in other systems of this kind (AReaL's issues), one test for each.

Where the whole machinery is needed the test stands with it:
 8  test_reward_pool: a_bad_call_is_set_aside_with_its_cause_and_the_others_are_scored ("hang")
 9  test_trainer: a_filter_that_drops_everything_is_named_and_ends_the_run
11  test_driver: a_dead_generators_tokens_stay_and_another_goes_on
12  test_checkpoint: killed_at_any_operation_one_whole_checkpoint_is_left
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realnet.codec import Codec
from realnet.config import read_table, to_plain
from realnet.errors import ConfigError, PeerDied, UnknownKind
from realnet.message import Message
from realnet.roles.algorithms.credit import Rule, credit
from realnet.roles.algorithms.normalise import token_scale
from realnet.roles.algorithms.objective import Tokens, token_loss
from realnet.roles.algorithms.presets import Loss, expand
from realnet.roles.checkpoints.checkpoint import Checkpoints
from realnet.roles.checkpoints.meta import read_meta
from realnet.roles.driver.answer import Partial, write
from realnet.roles.journal import Journal
from realnet.roles.ledger import Ledger, TicketState
from realnet.roles.messages import (
    Delta,
    Generate,
    Group,
    GroupClosed,
    Ints,
    Rollout,
    SampleKey,
    Sampling,
    Scored,
    Segment,
    Span,
    TicketKey,
    Version,
)
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner_batch import give_credit, lay_out
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.store import Store

RULES: tuple[Rule, ...] = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline")
RLOO = expand("rloo", Loss())


def model(ids: list[int], number: int = 0) -> Segment:
    spans = (Span(Version("p", 0, number), len(ids)),)
    return Segment(
        "model", np.array(ids, np.int32), np.full(len(ids), -1.0, np.float32), spans, learn=True
    )


def other(origin: Any, ids: list[int]) -> Segment:
    return Segment(origin, np.array(ids, np.int32), np.zeros(0, np.float32))


def scored(
    ticket: int, sample: int, reward: float | None, *segments: Segment, stop: str = "stop"
) -> Scored:
    key = SampleKey(TicketKey("p", ticket), sample)
    return Scored(Rollout(key, "t", "", "", "", (other("prompt", [1]), *segments), stop), reward)


def group(ticket: int, *members: Scored) -> Group:
    return Group(TicketKey("p", ticket), members)


@pytest.mark.parametrize("eta", [0, 1, 3])
@pytest.mark.parametrize("varying", [False, True])
def test_01_age_is_bounded_under_a_filter_and_varying_batches(eta: int, varying: bool) -> None:
    """Half of the groups are dropped, 200 steps: room is of tickets, and age is of each token."""
    rng = random.Random(eta)
    batch = 8
    ledger = Ledger("p", batch=batch, max_age=eta)
    written: dict[int, int] = {}
    oldest = 0
    while ledger.steps < 200:
        for start, end in ledger.issue(100, ledger.steps):
            written.update(dict.fromkeys(range(start, end), ledger.steps))
        assert ledger.out <= (eta + 1) * batch
        for ticket in ledger.tickets(TicketState.WAITING)[: rng.randrange(1, 6)]:
            if rng.random() < 0.5:
                ledger.drop(ticket, "all rewards are 1")
            else:
                ledger.buffer(ticket)
        ready = ledger.tickets(TicketState.BUFFERED)
        wanted = rng.randrange(1, batch + 1) if varying else batch
        if len(ready) < wanted:
            continue
        ages = {t: ledger.steps - written[t] for t in ready[:wanted]}
        groups = [group(t, scored(t, 0, 1.0, model([5, 6], written[t]))) for t in ages]
        now = ledger.steps
        laid = lay_out(groups, lambda v, now=now: now - v.number, eta, RLOO, 9)
        for sample in laid.samples:  # smaller batches age what waits: admission cannot bound that
            assert (len(sample.where) > 0) == (ages[sample.key.ticket.ticket] <= eta)
        oldest = max(oldest, *ages.values())
        ledger.train(ready[:wanted])
        ledger.check()
    assert varying or oldest <= eta
    assert oldest >= eta


async def test_02_room_after_a_resume_is_what_it_was(tmp_path: Path, monkeypatch: Any) -> None:
    async def inline(work: Any) -> None:
        work()

    policy = Policy(model="new:llama", batch=4, max_age=2, group=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)

    async def begin() -> Store:
        journal = Journal(tmp_path / "journal", run=inline)
        store = Store("p", policy, journal)
        store.unfit = lambda made: "odd" if made.key.ticket % 2 else ""
        journal.open()
        found = checkpoints.newest(lambda text: None)
        store.rebuild(found)
        if found is None:
            checkpoints.save(0, store.snapshot(), lambda folder: None)
        else:
            await store.resume(read_meta(found).version)
        store.published = store.step
        return store

    before = await begin()
    assert await before.take(10, first=False) == ((0, 10),)
    for ticket in range(5):
        await before.arrived(scored(ticket, 0, 1.0, model([5])))
        await before.arrived(GroupClosed(TicketKey("p", ticket), 1))
    await before.report((), [(9, "no such page")])
    assert before.ledger.counts() | {"buffered": 3, "dropped": 2, "set_aside": 1} == (
        before.ledger.counts()
    )
    before.journal.close()
    after = await begin()
    assert await after.take(12, first=True) == ((5, 9),)  # with nobody now: they go out again
    assert after.room() == before.room() == 12 - 7
    assert after.ledger.counts() == before.ledger.counts()
    after.journal.close()


@pytest.mark.parametrize("rule", RULES)
def test_03_partial_and_equal_groups_have_finite_advantages(rule: Rule) -> None:
    keys = list("aaaabccc")
    rewards = [1.0, 0.0, 1.0, 1.0, 5.0, 0.3, 0.3, 0.3]  # a whole one, one of one, an equal one
    got = credit(keys, rewards, [np.zeros(2)] * 8, rule)
    assert max(abs(float(t[0])) for t in got) < 5.0
    assert credit([], [], [], rule) == []
    if rule in ("grpo", "dr_grpo", "rloo"):
        assert all(t.tolist() == [0.0, 0.0] for t in got[4:])


@pytest.mark.parametrize("rule", RULES)
def test_04_an_answer_that_ends_on_a_tool_keeps_its_reward(rule: Rule) -> None:
    end = other("tool", [8, 9])
    worth = []
    for tail in ((), (end,)):
        made = lay_out(
            [group(0, scored(0, 0, 1.0, model([5, 6]), *tail), scored(0, 1, 0.0, model([7])))],
            lambda v: 0, 1, RLOO, 9,
        )  # fmt: skip
        give_credit(made, expand("rloo", Loss(advantage=rule)))
        worth.append([s.advantage.tolist() for s in made.samples])
    assert worth[0] == worth[1]
    assert worth[0][0][0] > 0.0


def test_05_the_longest_answer_is_not_truncated_when_it_ended() -> None:
    rule = expand("rloo", Loss(truncated="mask"))
    longest = scored(0, 0, 1.0, model([5] * 9))
    cut = scored(0, 1, 0.0, model([6] * 4), stop="length")
    made = lay_out([group(0, longest, cut)], lambda v: 0, 1, rule, 9)
    assert [len(s.where) for s in made.samples] == [9, 0]
    assert made.signs["truncated"] == 0.5


def test_06_a_kl_without_a_reference_is_refused_when_the_table_is_read() -> None:
    for where in ("loss", "reward"):
        with pytest.raises(ConfigError, match=r"loss\.kl.*reference is not set"):
            read_table(LearnerConfig, {"loss": {"kl": where, "kl_beta": 0.1}}, "t")


def test_07_at_ratio_one_the_gradient_is_scaled_by_the_weight() -> None:
    w = torch.tensor([0.5, 3.0], dtype=torch.float64)
    logp = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    tokens = Tokens(
        logp, -w.log(), torch.ones(2, dtype=torch.float64), torch.tensor([0, 1]), 2,
        torch.zeros(2), torch.zeros(2, dtype=torch.float64),
    )  # fmt: skip
    rule = expand("rloo", Loss(behave_clip=(1.0, math.inf)))
    token_loss(rule, tokens).loss.sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.5, -3.0])


def test_08_what_could_not_be_judged_is_no_zero() -> None:
    members = [scored(0, i, r, model([5 + i])) for i, r in enumerate((1.0, None, 0.0))]
    made = lay_out([group(0, *members)], lambda v: 0, 1, RLOO, 9)
    give_credit(made, RLOO)
    assert [(s.key.sample, s.advantage.tolist()) for s in made.samples] == [(0, [1.0]), (2, [-1.0])]
    assert (made.signs["reward"], made.signs["unscored"]) == (0.5, 1.0)


class Interrupted:
    """A generator that writes token 10 + i at place i, and dies after some of them."""

    def __init__(self, stops: list[int], length: int) -> None:
        self.stops, self.length, self.asked = stops, length, 0

    async def ask(self, request: Generate) -> AsyncIterator[Delta]:
        at, number = len(request.tokens_so_far), self.asked
        self.asked += 1
        stop = self.stops[number] if number < len(self.stops) else self.length
        for i in range(at, stop):
            finish = "stop" if i + 1 == self.length else ""
            yield Delta(_ids(10 + i), _ids(-i).astype(np.float32), Version("p", 0, number), finish)
        if stop < self.length:
            raise PeerDied(f"generator/{number} died")

    async def pause(self, seconds: float) -> None:
        """Let no time pass."""


def _ids(*values: int) -> Ints:
    return np.array(values, np.int32)


@pytest.mark.parametrize("stops", [[i] for i in range(1, 12)] + [list(range(1, 101))])
async def test_10_interrupted_anywhere_nothing_of_an_answer_is_lost(stops: list[int]) -> None:
    length = max(12, len(stops) + 2)
    many = Interrupted(stops, length)
    asked = Generate("p", _ids(4), Sampling(max_tokens=length, stop_ids=(1,)), _ids())
    partial = Partial()
    assert await write(many.ask, asked, partial, many.pause) == "stop"
    got = partial.segment()
    assert got.token_ids.tolist() == [10 + i for i in range(length)]
    assert got.logprobs.tolist() == [-float(i) for i in range(length)]
    edges = [0, *stops, length]
    expected = [(n, b - a) for n, (a, b) in enumerate(itertools.pairwise(edges))]
    assert [(s.version.number, s.length) for s in got.spans] == expected


def test_13_an_option_set_to_false_arrives_as_false() -> None:
    table = {"algorithm": "dapo", "loss": {"dynamic_sampling": False}}
    planned = to_plain(read_table(LearnerConfig, table, "t"))
    assert read_table(LearnerConfig, planned, "plan.json").rule.dynamic_sampling is False
    assert read_table(LearnerConfig, {"algorithm": "dapo"}, "t").rule.dynamic_sampling is True


@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_14_the_mean_is_the_same_on_any_number_of_ranks(normalise: Any, ranks: int) -> None:
    torch.manual_seed(0)
    counts = [5, 1, 0, 7, 3, 2, 4, 6, 1]
    losses = torch.randn(sum(counts), dtype=torch.float64).split(counts)
    scales, divisor = token_scale(counts, normalise, 8)
    whole = {
        "tokens": torch.cat(losses).mean(),
        "sequences": torch.stack([row.mean() for row in losses if len(row)]).mean(),
        "constant": torch.stack([row.sum() / 8 for row in losses if len(row)]).mean(),
    }[normalise]
    parts = [
        sum(float(losses[i].sum()) * scales[i] / divisor for i in range(rank, 9, ranks))
        for rank in range(ranks)
    ]
    assert math.fsum(parts) == pytest.approx(float(whole), abs=1e-12)


class Weights(Message):
    bits: np.ndarray[Any, np.dtype[np.uint16]]


@pytest.mark.parametrize("count", [1, 2**19])
def test_15_the_wire_keeps_bf16_exact_and_imports_nothing(count: int) -> None:
    value = torch.randn(count).to(torch.bfloat16)
    codec = Codec([Weights])
    body, frames = codec.encode(Weights(value.view(torch.uint16).numpy()))
    back = codec.decode(body, frames)
    assert isinstance(back, Weights)
    assert torch.equal(torch.from_numpy(back.bits.copy()).view(torch.bfloat16), value)
    with pytest.raises(UnknownKind):
        Codec([]).decode(body, frames)
