"""The driver's logic: answers that go on elsewhere, exact spans, seeds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realnet.errors import DeadlineExceeded, NoPeer, PeerDied, RealnetError, Refused
from realnet.roles.driver.answer import ATTEMPTS, REFUSALS, Partial, write
from realnet.roles.driver.driver import Driver, DriverConfig
from realnet.roles.driver.episode import sampling_of
from realnet.roles.messages import Delta, Generate, Sampling, Span, Ticket, TicketKey, Version
from realnet.roles.tables import Policy
from realnet.topology import read_source, resolve


def version(number: int) -> Version:
    return Version("policy", 0, number)


def delta(tokens: list[int], number: int = 0, finish: str = "") -> Delta:
    ids = np.array(tokens, np.int32)
    return Delta(ids, -ids.astype(np.float32), version(number), finish)


def request(**sampling: Any) -> Generate:
    return Generate(
        policy="policy",
        prompt_ids=np.array([4, 5], np.int32),
        sampling=Sampling(**({"max_tokens": 9, "stop_ids": (1,)} | sampling)),
        tokens_so_far=np.zeros(0, np.int32),
    )


class Generators:
    """Asks one after another meet these scripts: deltas, and errors where a generator fails."""

    def __init__(self, *scripts: list[Delta | Exception]) -> None:
        self.scripts = list(scripts)
        self.asked: list[list[int]] = []
        self.closed = 0
        self.pauses: list[float] = []

    async def ask(self, request: Generate) -> AsyncIterator[Delta]:
        self.asked.append([int(t) for t in request.tokens_so_far])
        try:
            for item in self.scripts.pop(0):
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed += 1

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_a_dead_generators_tokens_stay_and_another_goes_on() -> None:
    many = Generators(
        [delta([7, 8], 3), delta([9], 3), PeerDied("generator/0 died")],
        [NoPeer("nobody")],
        [delta([10], 3), delta([11], 4), DeadlineExceeded("slow")],
        [delta([], 4, "abort")],
        [delta([12], 4), delta([1], 5, "stop")],
    )
    partial = Partial()
    assert await write(many.ask, request(), partial, many.pause) == "stop"
    segment = partial.segment()
    assert segment.token_ids.tolist() == [7, 8, 9, 10, 11, 12, 1]
    assert segment.logprobs.tolist() == [-7, -8, -9, -10, -11, -12, -1]
    assert segment.spans == (Span(version(3), 4), Span(version(4), 2), Span(version(5), 1))
    assert (segment.token_ids.dtype, segment.logprobs.dtype) == (np.int32, np.float32)
    assert segment.learn
    assert many.asked == [
        [],
        [7, 8, 9],
        [7, 8, 9],
        [7, 8, 9, 10, 11],
        [7, 8, 9, 10, 11],
    ]
    assert many.closed == 5
    assert len(many.pauses) == 4


@pytest.mark.parametrize(
    ("last", "finish"), [([1], "stop"), ([8, 8, 8, 8, 8, 8, 8], "length"), ([8], "")]
)
async def test_a_whole_answer_without_its_finish_is_not_asked_again(
    last: list[int], finish: str
) -> None:
    many = Generators([delta([7, 7]), delta(last), PeerDied("died")], [delta([1], finish="stop")])
    partial = Partial()
    assert await write(many.ask, request(), partial, many.pause) == (finish or "stop")
    assert len(many.asked) == (1 if finish else 2)


@pytest.mark.parametrize(
    ("error", "times"), [(PeerDied("died"), ATTEMPTS), (Refused("no such version"), REFUSALS)]
)
async def test_failing_without_progress_ends_with_the_last_error(
    error: Exception, times: int
) -> None:
    many = Generators(*[[error] for _ in range(times)])
    with pytest.raises(type(error)):
        await write(many.ask, request(), Partial(), many.pause)
    assert many.pauses == sorted(many.pauses)


async def test_waiting_for_a_generator_has_no_end_and_progress_forgives() -> None:
    waits: list[list[Delta | Exception]] = [[NoPeer("none")] for _ in range(20)]
    crawl: list[list[Delta | Exception]] = [[delta([8]), PeerDied("died")] for _ in range(8)]
    many = Generators(*waits, *crawl, [delta([1], finish="stop")])
    partial = Partial()
    assert await write(many.ask, request(), partial, many.pause) == "stop"
    assert partial.length == 9


async def test_an_answer_cut_off_after_each_of_its_tokens_is_their_sequence() -> None:
    """A hundred generators in a row die after one token, each of another version."""
    tokens = [*range(5, 104), 1]
    scripts: list[list[Delta | Exception]] = [
        [delta([token], number), PeerDied("died")] for number, token in enumerate(tokens)
    ]
    many = Generators(*scripts)
    partial = Partial()
    assert await write(many.ask, request(max_tokens=200), partial, many.pause) == "stop"
    segment = partial.segment()
    assert segment.token_ids.tolist() == tokens
    assert segment.logprobs.tolist() == [-token for token in tokens]
    assert segment.spans == tuple(Span(version(number), 1) for number in range(100))
    assert many.asked == [tokens[:count] for count in range(100)]
    assert many.closed == 100


async def test_a_stream_that_just_ends_is_a_failure() -> None:
    many = Generators(*[[] for _ in range(ATTEMPTS)])
    with pytest.raises(RealnetError, match="ended an answer with 'nothing'"):
        await write(many.ask, request(), Partial(), many.pause)


def test_a_delta_with_missing_logprobs_is_refused() -> None:
    broken = Delta(np.array([1, 2], np.int32), np.zeros(1, np.float32), version(0))
    with pytest.raises(RealnetError, match="2 tokens and 1"):
        Partial().add(broken)


def ticket(number: int = 0, **sampling: Any) -> Ticket:
    return Ticket(
        key=TicketKey("policy", number),
        task="t",
        prompt_ids=np.array([4, 5], np.int32),
        prompt="01",
        answer="",
        group=2,
        sampling=Sampling(**sampling),
    )


def test_each_answer_of_each_ticket_has_a_seed_of_its_own() -> None:
    def seed(number: int, sample: int, base: int) -> int | None:
        return sampling_of(ticket(number, seed=base), sample, 1).seed

    seeds = {seed(n, s, b) for n in range(3) for s in range(3) for b in range(3)}
    assert len(seeds) == 27
    assert all(s is not None and 0 <= s < 2**63 for s in seeds)
    assert seed(1, 2, 0) == seed(1, 2, 0)
    assert sampling_of(ticket(), 0, 1).seed is None


def test_answers_end_at_eos_unless_the_ticket_says_where() -> None:
    assert sampling_of(ticket(), 0, 17).stop_ids == (17,)
    assert sampling_of(ticket(stop_ids=(3, 4)), 0, 17).stop_ids == (3, 4)


# ------------------------------------------------------------ how much at once


@pytest.mark.parametrize(
    ("sets", "tickets"),
    [
        (("roles.generator.engine.slots=64",), 34),  # 4 x 8 groups of 8 in hand, and two that wait
        (
            (
                "roles.generator.engine.slots=64",
                "policy.group=1",
                'roles.trainer.loss.advantage="reinforce_pp"',
            ),
            66,
        ),  # a group is its one answer: as many as slots
        (("roles.generator.engine.slots=30", "policy.group=16"), 10),
        (
            ("roles.generator.engine.slots=64", "roles.generator.count=3"),
            34,
        ),  # a driver in each generator's process
        (
            (
                *("roles.generator.engine.slots=64", "roles.generator.count=4"),
                *("roles.driver.place=false", "roles.driver.count=2"),
            ),
            66,
        ),
        (("roles.driver.tickets=5",), 5),
    ],
)
def test_as_many_tickets_in_hand_as_keep_the_slots_full(
    sets: tuple[str, ...], tickets: int
) -> None:
    plan = resolve(read_source(Path("demo"), sets))
    assert plan.roles["driver"].config["tickets"] == tickets


def test_a_driver_of_unknown_generators_takes_some() -> None:
    alone = Driver.fit(DriverConfig(), 1, {Policy: Policy(model="new:llama")}, {})
    assert Driver.tickets.bounds(alone).window == 16
