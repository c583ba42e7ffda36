"""The evaluator: which versions are measured, what is found, and what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from realnet.config import Steps
from realnet.errors import ConfigError, NoPeer, Refused
from realnet.roles.evaluator import Evaluator, EvaluatorConfig
from realnet.roles.messages import (
    Announced,
    Attempt,
    Held,
    Judge,
    Judgement,
    Location,
    Manifest,
    PolicyStatus,
    Rollout,
    Rollouts,
    SampleKey,
    Scored,
    Segment,
    Span,
    Ticket,
    Version,
)
from realnet.roles.tables import Policy, Schedule, Task

TASKS = {
    "train": Task(data="new:addz", reward={"exact": 1.0}),
    "test": Task(
        data="new:addz",
        reward={"exact": 1.0, "b": 0.1},
        use="eval",
        limit=12,
        samples=2,
        greedy=False,
    ),
}
POLICY = Policy(model="new:llama", tokenizer="new:chars", context=64)


def version(number: int, branch: int = 1) -> Version:
    return Version("policy", branch, number)


def announced(*numbers: int, branch: int = 1) -> Announced:
    """The newest first."""
    held = [Held(Manifest(version(n, branch), (), 0, ""), Location("", 0, 0)) for n in numbers]
    return Announced(held[0], tuple(held[1:]))


class Scene:
    """An evaluator between a driver, a rewarder and two states, all scripted."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.versions, self.status = bench.state(), bench.state()
        self.shown = bench.state()
        self.asked: list[Ticket] = []
        self.gone: set[Version] = set()
        self.failures: list[Exception] = []
        self.most_at_once = self._at_once = 0
        self.running = version(99)

    async def driver(self, request: Attempt) -> Rollouts:
        ticket = request.ticket
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await self.bench.world.clock.sleep(0.1)
        self._at_once -= 1
        if self.failures:
            raise self.failures.pop(0)
        if ticket.pinned in self.gone:
            raise Refused(f"{ticket.pinned} is not here")
        self.asked.append(ticket)
        writer = ticket.pinned or self.running
        ids = np.arange(5, dtype=np.int32)
        segments = (
            Segment("prompt", ticket.prompt_ids, np.zeros(0, np.float32)),
            Segment("model", ids, ids.astype(np.float32), (Span(writer, 5),), True),
        )
        return Rollouts(
            tuple(
                Rollout(
                    SampleKey(ticket.key, i), ticket.task, ticket.prompt, f"text {i}",
                    ticket.answer, segments, "stop",
                )
                for i in range(ticket.group)
            )
        )  # fmt: skip

    async def rewarder(self, request: Judge) -> Judgement:
        """The first answer to problems 0, 1, 2 is right; problem 5 cannot be judged."""
        scored = []
        for rollout in request.rollouts:
            right = float(rollout.key.ticket.ticket < 3 and rollout.key.sample == 0)
            if rollout.key.ticket.ticket == 5:
                scored.append(Scored(rollout, None, {}, "reward 'b' ran 15.0 s"))
            else:
                scored.append(Scored(rollout, right + 0.1, {"exact": right, "b": 1.0}))
        return Judgement(tuple(scored))

    async def start(self, every: int = 10, tasks: dict[str, Task] = TASKS) -> Evaluator:
        ports = {
            "versions": self.versions,
            "status": self.status,
            "measured": self.shown,
            "driver": self.bench.ask(self.driver),
            "rewarder": self.bench.ask(self.rewarder),
        }
        shared = {Policy: POLICY, Task: tasks, Schedule: Schedule(eval=Steps(every))}
        config = EvaluatorConfig(at_once=4, samples=2)
        self.evaluator: Evaluator = await self.bench.start(Evaluator, config, shared, ports)
        self.bench.run(self.evaluator)
        return self.evaluator

    @property
    def measured(self) -> list[int]:
        return [row["step"] for row in self.bench.world.metrics]

    async def show(self, *numbers: int, branch: int = 1, rows: int) -> None:
        """Announce versions and wait until there are so many rows of metrics."""
        self.versions.show(announced(*numbers, branch=branch))
        await self.bench.until(lambda: len(self.measured) >= rows)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(200):
            await self.bench.world.clock.sleep(0.01)


@pytest.fixture
def scene(bench: Any) -> Scene:
    return Scene(bench)


async def test_one_evaluation_asks_pins_judges_and_tells(scene: Scene) -> None:
    await scene.start()
    await scene.show(0, rows=1)
    assert len(scene.asked) == 12
    assert scene.most_at_once == 4
    first = next(ticket for ticket in scene.asked if ticket.key.ticket == 0)
    assert str(first.key) == "policy/eval:test:v0:0"
    assert (first.task, first.group, first.pinned) == ("test", 2, version(0))
    (row,) = scene.bench.world.metrics
    assert row["step"] == 0
    assert row["eval/test/pass@1"] == pytest.approx(3 * 0.5 / 11)
    assert row["eval/test/reward"] == pytest.approx((3 + 22 * 0.1) / 22)
    assert row["eval/test/length"] == 5.0
    assert scene.bench.world.events == [
        "test pass@1 0.14 (11 of 12 problems; reward 'b' ran 15.0 s) at step 0"
    ]


async def test_a_greedy_answer_is_measured_beside_the_sampled_ones(scene: Scene) -> None:
    both = msgspec.structs.replace(TASKS["test"], greedy=True)
    cold = msgspec.structs.replace(both, temperature=0.0)  # is greedy already
    await scene.start(tasks={"train": TASKS["train"], "both": both, "cold": cold})
    await scene.show(0, rows=1)
    asked = [t for t in scene.asked if t.task == "both"]
    greedy = [t for t in asked if t.sampling.temperature == 0.0]
    assert (len(greedy), len(asked)) == (12, 24)
    assert {t.group for t in greedy} == {1}
    assert str(greedy[0].key).startswith("policy/eval:both:greedy:v0:")
    assert len([t for t in scene.asked if t.task == "cold"]) == 12
    (row,) = scene.bench.world.metrics
    assert row["eval/both/greedy"] == pytest.approx(3 / 11), "not mixed with the sampled answers"
    assert row["eval/both/pass@1"] == pytest.approx(3 * 0.5 / 11)
    assert "eval/cold/greedy" not in row
    assert any("both pass@1 0.14, greedy 0.27 (11 of 12" in e for e in scene.bench.world.events)


async def test_samples_are_kept_to_read(scene: Scene) -> None:
    await scene.start()
    await scene.show(0, rows=1)
    await scene.show(10, rows=2)
    lines = (scene.bench.folder / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    kept = sorted((row["step"], row["problem"]) for row in rows)
    assert kept == [(0, 0), (0, 1), (10, 0), (10, 1)]
    assert rows[0]["prompt"].endswith("=")
    assert rows[0]["parts"] == {"exact": 1.0, "b": 1.0}
    assert rows[0]["tokens"] == [0, 1, 2, 3, 4]
    assert rows[0]["logprobs"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert rows[0]["versions"] == [[1, 0, 5]]
    assert rows[0]["version"] == "policy v1.0"


async def test_greedy_answers_are_kept_beside_the_sampled_ones(scene: Scene) -> None:
    both = msgspec.structs.replace(TASKS["test"], greedy=True)
    cold = msgspec.structs.replace(both, temperature=0.0)
    await scene.start(tasks={**TASKS, "both": both, "cold": cold})
    await scene.show(0, rows=1)
    lines = (scene.bench.folder / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    kept = {name: [(r["problem"], r["decoding"]) for r in rows if r["task"] == name]
            for name in ("test", "both", "cold")}  # fmt: skip
    assert kept == {
        "test": [(0, "sampled"), (1, "sampled")],
        "both": [(0, "sampled"), (0, "greedy"), (1, "sampled"), (1, "greedy")],
        "cold": [(0, "greedy"), (1, "greedy")],
    }


async def test_versions_are_measured_when_they_are_due(scene: Scene) -> None:
    await scene.start()
    await scene.show(0, rows=1)
    await scene.show(5, rows=1)
    await scene.show(10, rows=2)
    await scene.show(19, rows=2)
    await scene.show(23, 22, 21, 20, rows=3)
    assert scene.measured == [0, 10, 20]
    assert scene.asked[-1].pinned == version(20)


async def test_a_version_that_is_not_held_any_more_is_replaced_and_told(scene: Scene) -> None:
    await scene.start()
    await scene.show(0, rows=1)
    await scene.show(13, 12, rows=2)
    assert scene.measured == [0, 13]
    assert "policy v10 is gone; measuring policy v1.13" in scene.bench.world.events
    await scene.show(20, 19, rows=3)
    assert scene.measured == [0, 13, 20]


async def test_a_version_that_is_refused_gives_way_to_the_newest_and_then_to_any(
    scene: Scene,
) -> None:
    await scene.start()
    scene.gone = {version(0), version(1)}
    scene.running = version(2)
    await scene.show(0, rows=1)
    assert len(scene.asked) == 12
    assert scene.bench.world.events[0] == (
        "policy v1.0 is not served any more; measuring whichever version is served"
    )
    assert scene.bench.world.events[-1].endswith("at step 0, written by version 2")


async def test_passing_trouble_costs_no_problem(scene: Scene) -> None:
    await scene.start()
    scene.failures = [NoPeer("nobody")] * 3
    await scene.show(0, rows=1)
    assert len(scene.asked) == 12


async def test_lasting_trouble_is_told_and_not_measured(scene: Scene) -> None:
    await scene.start()
    scene.failures = [NoPeer("nobody serves driver")] * 1000
    scene.versions.show(announced(0))
    await scene.bench.until(lambda: scene.bench.world.events)
    assert scene.measured == []
    assert (
        "test could not be measured at step 0: no answer: nobody serves driver"
        in (scene.bench.world.events[0])
    )


async def test_the_last_version_is_measured_before_the_end(scene: Scene) -> None:
    evaluator = await scene.start()
    await scene.show(0, rows=1)
    scene.status.show(PolicyStatus(version(7), 7, 0, finished=True))
    scene.versions.show(announced(7, 6))
    await evaluator.drain()
    assert scene.measured == [0, 7]


async def test_the_end_does_not_wait_for_ever(scene: Scene) -> None:
    evaluator = await scene.start()
    await scene.show(0, rows=1)
    scene.status.show(PolicyStatus(version(7), 7, 0, finished=True))  # never announced
    await evaluator.drain()
    assert scene.measured == [0]
    assert "was not measured within 120 s" in scene.bench.world.events[-1]


async def test_a_last_version_that_was_just_measured_is_not_measured_twice(scene: Scene) -> None:
    evaluator = await scene.start()
    await scene.show(0, rows=1)
    await scene.show(10, rows=2)
    scene.status.show(PolicyStatus(version(10), 10, 0, finished=True))
    await evaluator.drain()
    assert scene.measured == [0, 10]


async def test_an_interrupted_run_is_not_held_up(scene: Scene) -> None:
    evaluator = await scene.start()
    await scene.show(0, rows=1)
    scene.status.show(PolicyStatus(version(7), 7, 0))
    scene.versions.show(announced(7))
    await evaluator.drain()
    assert scene.measured == [0]


async def test_in_the_middle_of_a_run_it_waits_for_the_next_one_due(scene: Scene) -> None:
    await scene.start()
    await scene.show(47, 46, branch=2, rows=0)
    assert scene.measured == []
    await scene.show(50, branch=2, rows=1)
    assert scene.measured == [50]


async def test_after_a_trainer_went_back_the_steps_are_measured_again(scene: Scene) -> None:
    await scene.start()
    await scene.show(0, rows=1)
    await scene.show(20, rows=2)
    await scene.show(14, branch=2, rows=2)
    await scene.show(20, branch=2, rows=3)
    assert scene.measured == [0, 20, 20]
    assert scene.asked[-1].pinned == version(20, branch=2)


def test_check_refuses_an_evaluator_without_anything_to_measure(tmp_path: Path) -> None:
    shared: Any = {Task: {"train": TASKS["train"]}}
    with pytest.raises(ConfigError, match="nothing to measure"):
        Evaluator.check(EvaluatorConfig(), shared, tmp_path)
    whole: Any = {Task: TASKS, Policy: POLICY}
    Evaluator.check(EvaluatorConfig(), whole, tmp_path)
    whole[Policy] = Policy(model="new:llama", tokenizer="new:chars", context=8)
    with pytest.raises(ConfigError, match=r"none of the first .* prompts can be asked"):
        Evaluator.check(EvaluatorConfig(), whole, tmp_path)
