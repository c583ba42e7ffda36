"""Episodes of several turns: what becomes a segment of what, and what of it is learned from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch

from realnet.actor import Clock
from realnet.errors import PeerDied, RealnetError
from realnet.roles.algorithms.presets import Loss
from realnet.roles.driver.driver import Driver, DriverConfig
from realnet.roles.driver.episode import Episode
from realnet.roles.messages import (
    Delta,
    Generate,
    Group,
    Rollout,
    Sampling,
    Scored,
    Span,
    Ticket,
    TicketKey,
    Version,
)
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_batch import give_credit, lay_out
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.topology.kinds import load_kind

ROOT = Path(__file__).parents[2]
CODEC = Tokenizer.new_chars()
VERSION = Version("policy", 0, 3)


class Model:
    """A generator that says what a script says, in pieces of two tokens."""

    def __init__(self, *turns: str) -> None:
        self.turns = list(turns)
        self.requests: list[Generate] = []
        self.dies = False  # once, after its first piece

    async def __call__(self, request: Generate) -> AsyncIterator[Delta]:
        self.requests.append(request)
        ids = [*CODEC.encode(self.turns[0]), CODEC.eos_id][: request.sampling.max_tokens]
        ids = ids[len(request.tokens_so_far) :]
        for at in range(0, len(ids), 2):
            piece = np.array(ids[at : at + 2], np.int32)
            stop = "stop" if ids[-1] == CODEC.eos_id else "length"
            if at + 2 >= len(ids):
                self.turns.pop(0)
            else:
                stop = ""
            yield Delta(piece, -piece.astype(np.float32) - 1, VERSION, stop)
            if self.dies:
                self.dies = False
                raise PeerDied("generator/0 died")


async def no_pause(seconds: float) -> None:
    assert seconds > 0


def ticket(max_tokens: int = 40, seed: int | None = 7) -> Ticket:
    prompt = "000012+000030="
    return Ticket(
        key=TicketKey("policy", 5),
        task="sums",
        prompt_ids=np.array(CODEC.encode(prompt), np.int32),
        prompt=prompt,
        answer="42",
        group=2,
        sampling=Sampling(max_tokens=max_tokens, seed=seed),
    )


def episode(model: Model, max_tokens: int = 40) -> Episode:
    return Episode(ticket(max_tokens), 1, CODEC, model, no_pause)


async def test_turns_and_what_is_told_are_segments_one_after_the_other() -> None:
    model = Model("(000012+000030)", "42")
    playing = episode(model)
    assert await playing.write() == "(000012+000030)"
    playing.tell(":42:")
    assert await playing.write() == "42"
    rollout = playing.rollout(1.5)
    assert rollout.text == "(000012+000030):42:42"
    assert (rollout.stop, rollout.episode, rollout.generated_s) == ("stop", "policy/5#1", 1.5)
    assert [s.origin for s in rollout.segments] == ["prompt", "model", "tool", "model"]
    assert [s.learn for s in rollout.segments] == [False, True, False, True]
    assert [s.parent for s in rollout.segments] == [-1, 0, 1, 2]
    assert rollout.segments[3].spans == (Span(VERSION, 3),)
    first, second = model.requests
    before = [*CODEC.encode("000012+000030=(000012+000030)"), CODEC.eos_id, *CODEC.encode(":42:")]
    assert second.prompt_ids.tolist() == before
    assert second.sampling.max_tokens == 40 - 16 - 4
    assert first.session == second.session
    assert first.sampling.seed != second.sampling.seed


async def test_a_generator_that_dies_in_the_second_turn_costs_nothing_of_it() -> None:
    model = Model("1", "4212")
    playing = episode(model)
    await playing.write()
    playing.tell(":")
    model.dies = True
    assert await playing.write() == "4212"
    assert [int(t) for t in model.requests[2].tokens_so_far] == CODEC.encode("42")
    assert playing.continued == 1


async def test_nothing_goes_beyond_the_room_of_a_ticket() -> None:
    playing = episode(Model("123456", "9"), max_tokens=9)
    await playing.write()  # 7 tokens, the stop token among them
    playing.tell(":42:")
    assert playing.room == 0
    assert await playing.write() == ""
    rollout = playing.rollout(0.0)
    assert rollout.stop == "length"
    assert sum(len(s.token_ids) for s in rollout.segments[1:]) == 9


async def played(*turns: str) -> Rollout:
    """Play the calculator of the examples with a model that says this."""
    kind = load_kind("calculator.py:Calculator", ROOT / "examples" / "calculator", "test")
    agent = kind()
    assert isinstance(agent, Driver)
    agent.config = DriverConfig()
    playing = episode(Model(*turns))
    await agent.play(playing)
    return playing.rollout(0.0)


async def test_the_calculator_answers_calls_and_nothing_else() -> None:
    assert (await played("(000012+000030)", "42")).text == "(000012+000030):42:42"
    for said in ("42", "(12)", "(1+2)3", ":3:"):
        assert (await played(said)).text == said


async def test_what_the_tool_said_is_read_and_carries_no_gradient() -> None:
    """With two answers that differ, gradient flows from both turns and from no tool token."""
    good, bad = await played("(000012+000030)", "42"), await played("(000012+000030)", "99")
    config = LearnerConfig(algorithm="rloo", loss=Loss(), lr=1e-3, minibatches=1)
    group = Group(good.key.ticket, (Scored(good, 1.0), Scored(bad, 0.0)))
    batch = lay_out([group], lambda version: 0, 1, config.rule, 40)
    give_credit(batch, config.rule)
    sample = batch.samples[0]
    prompt, call, told, answer = (len(s.token_ids) for s in good.segments)
    written = [*range(prompt, prompt + call), *range(prompt + call + told, len(sample.ids))]
    assert sample.where.tolist() == written
    assert len(written) == call + answer
    assert sample.teaches
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    policy = Policy(
        model="new:llama",
        tokenizer="new:chars",
        shape=shape,
        context=80,
    )
    learner = Learner(policy, config, CODEC, ROOT)
    logp = learner.scorer.score([s.row for s in batch.samples])
    other = np.array(good.segments[2].token_ids)  # the model reads what it was told
    changed = sample.ids.copy()
    changed[prompt + call : prompt + call + told] = other[::-1] + 1
    apart = learner.scorer.score([(changed, sample.where)])[0]
    assert torch.equal(apart[:call], logp[0][:call])
    assert not torch.equal(apart[call:], logp[0][call:])
    before = [weight.clone() for _, weight in learner.named]
    learner.step([group], VERSION, lambda version: 0)
    assert any(not torch.equal(a, b) for a, (_, b) in zip(before, learner.named, strict=True))


async def test_what_play_raises_is_that_tickets_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Driver):
        async def play(self, episode: Episode) -> None:
            raise ValueError("the tool is broken")

    agent = Broken()
    agent.config, agent._tokenizer = DriverConfig(), CODEC
    monkeypatch.setattr(agent, "clock", Clock(lambda: 0.0), raising=False)

    async def give(rollout: Rollout) -> None:
        raise AssertionError("given")

    told = r"Broken.play raised ValueError: the tool is broken \(test_episode.py line \d+\)"
    with pytest.raises(RealnetError, match=told):
        await agent._group(ticket(), give)
