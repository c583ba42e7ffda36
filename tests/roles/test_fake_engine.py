"""The fake engine keeps the same contract as a real one, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from realnet.roles.generator.engine import EngineConfig, FakeConfig, make_core
from realnet.roles.generator.fake_engine import FakeEngine
from realnet.roles.messages import Delta, Generate, Sampling, Version
from realnet.roles.tables import Policy


def engine(*, slots: int = 2, flush: int = 32, seed: int = 0, **fake: Any) -> FakeEngine:
    config = EngineConfig(kind="fake", slots=slots, flush=flush, fake=FakeConfig(**fake))
    made = FakeEngine(config, context=64, seed=seed)
    made.stage({}, Version("policy", 0, 0))
    made.swap()
    return made


def request(so_far: tuple[int, ...] = (), **sampling: Any) -> Generate:
    return Generate(
        policy="policy",
        prompt_ids=np.array([4, 5], np.int32),
        sampling=Sampling(**({"max_tokens": 30, "stop_ids": (1,)} | sampling)),
        tokens_so_far=np.array(so_far, np.int32),
    )


def drain(made: FakeEngine) -> dict[int, list[Delta]]:
    sent: dict[int, list[Delta]] = {}
    while made.num_running or made.num_waiting:
        for request_id, delta in made.step(4):
            sent.setdefault(request_id, []).append(delta)
    return sent


def tokens(deltas: list[Delta]) -> list[int]:
    return [int(t) for d in deltas for t in d.token_ids]


def test_constant_length_ends_with_the_stop_token() -> None:
    made = engine(mean=7)
    for number in range(5):
        made.submit(number, request())
    sent = drain(made)
    assert {len(tokens(d)) for d in sent.values()} == {7}
    assert all(d[-1].finish == "stop" and tokens(d)[-1] == 1 for d in sent.values())
    assert all(1 not in tokens(d)[:-1] for d in sent.values())


def test_limits_end_with_length() -> None:
    made = engine(mean=99)
    made.submit(0, request(max_tokens=5))
    made.submit(1, request(max_tokens=99))
    made.submit(2, request(so_far=(3,) * 5, max_tokens=5))
    sent = drain(made)
    assert [len(tokens(sent[n])) for n in range(3)] == [5, 62, 0]
    assert [sent[n][-1].finish for n in range(3)] == ["length"] * 3


def test_seed_repeats_and_a_move_goes_on_the_same_way() -> None:
    first = engine(lengths="lognormal", mean=12)
    first.submit(0, request(seed=5))
    whole = tokens(drain(first)[0])
    other = engine(lengths="lognormal", mean=12, seed=9)
    other.submit(0, request(seed=5, so_far=tuple(whole[:3])))
    other.submit(1, request(seed=6))
    sent = drain(other)
    assert tokens(sent[0]) == whole[3:]
    assert tokens(sent[1]) != whole


def test_lognormal_lengths_have_the_mean() -> None:
    made = engine(slots=400, lengths="lognormal", mean=12, sigma=0.5)
    for number in range(400):
        made.submit(number, request(max_tokens=62, seed=number))
    lengths = [len(tokens(d)) for d in drain(made).values()]
    assert 10.5 < np.mean(lengths) < 13.5
    assert len(set(lengths)) > 8


def test_swap_flushes_and_abort_keeps_the_partial() -> None:
    made = engine(mean=20, flush=6)
    made.submit(0, request())
    made.submit(1, request())
    made.submit(2, request())
    sent = made.step(4)
    made.stage({}, Version("policy", 0, 1))
    made.swap()
    made.abort(1)
    made.abort(2)
    sent += made.step(4)
    parts = [(d.version.number, len(d.token_ids), d.finish) for i, d in sent if i == 0]
    assert parts == [(0, 4, "")]
    assert [(len(d.token_ids), d.finish) for i, d in sent if i == 1] == [(4, ""), (0, "abort")]
    assert [(len(d.token_ids), d.finish) for i, d in sent if i == 2] == [(0, "abort")]
    (number, end), *more = [(i, d) for i, d in made.step(30)]
    assert not more
    assert (number, end.version.number, len(end.token_ids), end.finish) == (0, 1, 16, "stop")


def test_a_part_is_sent_when_a_block_ends_with_enough_of_it() -> None:
    made = engine(mean=20, flush=6)
    made.submit(0, request())
    parts = [[(len(d.token_ids), d.finish) for _, d in made.step(4)] for _ in range(5)]
    assert parts == [[], [(8, "")], [], [(8, "")], [(4, "stop")]]


class Time:
    """A clock that only sleeping moves. `poke` is called before the sleep of that number."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self.before: dict[int, Any] = {}

    def sleep(self, seconds: float) -> None:
        self.before.pop(len(self.slept), lambda: None)()
        self.slept.append(round(seconds, 9))
        self.now_s += seconds

    def now(self) -> float:
        return self.now_s


def timed(rate: float, mean: float, **config: Any) -> tuple[FakeEngine, Time]:
    time = Time()
    table = EngineConfig(kind="fake", fake=FakeConfig(rate=rate, mean=mean), **config)
    made = FakeEngine(table, 64, 0, time.sleep, time.now)
    made.submit(0, request())
    assert made.step(4) == []
    assert time.slept == []  # waits for a version, not for tokens
    made.stage({}, Version("policy", 0, 0))
    made.swap()
    return made, time


def test_poke_ends_a_block_between_two_tokens() -> None:
    made, time = timed(50, 20, flush=1)
    time.before[2] = made.poke
    assert [len(d.token_ids) for _, d in made.step(8)] == [3]
    assert [len(d.token_ids) for _, d in made.step(8)] == [8]


def test_rate_is_waited_for_through_the_given_sleep() -> None:
    made, time = timed(50, 6)
    drain(made)
    assert time.slept == [1 / 50] * 6


def test_what_the_host_is_late_by_is_made_up_for_up_to_a_block() -> None:
    made, time = timed(50, 20, block=2)
    made.step(2)
    time.now_s += 0.03  # of the 0.04 that a block takes
    made.step(2)
    assert time.slept[2:] == [0.01]
    time.now_s += 1.0
    made.step(3)
    assert time.slept[3:] == [0.02]  # two tokens were ready: what is older is lost


def test_an_engine_that_was_idle_starts_anew() -> None:
    made, time = timed(50, 2, block=2)
    drain(made)
    time.now_s += 1.0
    made.submit(1, request())
    made.step(1)
    assert time.slept == [0.02] * 3


def test_fake_engine_needs_no_torch() -> None:
    policy = Policy(model="new:llama", tokenizer="new:chars", context=64)
    assert isinstance(
        make_core(EngineConfig(kind="fake"), policy, 40, policy_base(), 0),
        FakeEngine,
    )
    code = (
        "import sys, realnet.roles.generator.fake_engine, realnet.roles.models.reference\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def policy_base() -> Any:
    from pathlib import Path

    return Path()
