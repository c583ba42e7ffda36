"""The rewarder: weighted sums, kept parts, and no score where there is none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realnet.errors import ConfigError
from realnet.roles.messages import Judge, Rollout, SampleKey, Segment, TicketKey
from realnet.roles.rewarder import Rewarder, RewarderConfig
from realnet.roles.rewards import resolve
from realnet.roles.rewards.canary import KNOWN, Known
from realnet.roles.tables import Task

MINE = """
def short(prompt, text, answer): return -float(len(text))
def bad(prompt, text, answer): return 1 / 0
def huge(prompt, text, answer): return 1e308
"""


def rollout(text: str = "12", task: str = "sum", sample: int = 0) -> Rollout:
    ids = np.arange(3, dtype=np.int32)
    segment = Segment("model", ids, ids.astype(np.float32), learn=True)
    key = SampleKey(TicketKey("policy", 7), sample)
    return Rollout(key, task, "7+5=", text, "12", (segment,), "stop")


class Item:
    """A delivery."""

    def __init__(self, body: Rollout, key: str) -> None:
        self.body, self.key, self.attempt = body, key, 1


TASKS = {
    "sum": Task(data="new:addz", reward={"exact": 1.0, "mine.py:short": 0.25}),
    "bad": Task(data="new:addz", reward={"exact": 1.0, "mine.py:bad": 1.0}),
    "huge": Task(data="new:addz", reward={"exact": 1.0, "mine.py:huge": 10.0}),
}


@pytest.fixture
async def rewarder(bench: Any) -> Any:
    (bench.folder / "mine.py").write_text(MINE)
    outlet = bench.outlet()
    config = RewarderConfig(limit=20.0, attempts=2)  # type: ignore[arg-type]
    actor = await bench.start(Rewarder, config, {Task: TASKS}, {"scored": outlet})
    actor.outlet = outlet
    return actor


async def test_rewards_are_weighted_and_summed_and_parts_kept(rewarder: Any) -> None:
    await rewarder.judge(Item(rollout(), "policy/7@1.0#0"))
    ((scored, key),) = rewarder.outlet.sent
    assert key == "policy/7@1.0#0"
    assert (scored.reward, scored.fault) == (0.5, "")
    assert scored.parts == {"exact": 1.0, "mine.py:short": -2.0}


async def test_a_sum_that_is_no_number_is_no_score(rewarder: Any) -> None:
    await rewarder.judge(Item(rollout(task="huge"), "policy/7@1.0#0"))
    ((scored, _),) = rewarder.outlet.sent
    assert scored.reward is None
    assert scored.parts == {"exact": 1.0, "mine.py:huge": 1e308}
    assert "weighted by" in scored.fault
    assert "is inf" in scored.fault


async def test_who_waits_for_a_reward_says_for_which(rewarder: Any, bench: Any) -> None:
    waits = bench.world.waits
    judging = asyncio.ensure_future(rewarder.judge(Item(rollout(), "k")))
    who = str(rewarder.address)
    await bench.until(lambda: waits.of(who) or judging.done())
    assert waits.of(who)[0][0] == "reward workers: sum is judged by exact, mine.py:short"
    await judging
    assert not waits.of(who)


async def test_no_score_is_made_up(rewarder: Any, bench: Any) -> None:
    await rewarder.judge(Item(rollout(task="bad"), "k"))
    ((scored, _),) = rewarder.outlet.sent
    assert scored.reward is None
    assert scored.parts == {"exact": 1.0}
    assert "reward 'mine.py:bad' raised ZeroDivisionError" in scored.fault
    assert "policy/7#0 has no score" in bench.world.events[0]


async def test_asks_are_answered_in_order(rewarder: Any) -> None:
    asked = tuple(rollout(text, sample=i) for i, text in enumerate(["12", "13", "12", ""]))
    judged = await rewarder.judge_now(Judge(asked))
    assert [scored.rollout.key.sample for scored in judged.scored] == [0, 1, 2, 3]
    assert [scored.parts["exact"] for scored in judged.scored] == [1.0, 0.0, 1.0, 0.0]


async def test_an_unknown_task_is_a_fault(rewarder: Any) -> None:
    judged = await rewarder.judge_now(Judge((rollout(task="other"),)))
    assert judged.scored[0].reward is None
    assert "no task 'other'" in judged.scored[0].fault


async def test_a_row_of_metrics_comes_now_and_then(rewarder: Any, bench: Any) -> None:
    await rewarder.judge_now(Judge((rollout(), rollout(task="bad"))))
    bench.run(rewarder)
    await bench.until(lambda: bench.world.metrics)
    row = bench.world.metrics[0]
    assert row["rewards/mean"] == 0.5
    assert row["rewards/unscored"] == 1.0


def test_check_names_every_reward_that_is_not_there(tmp_path: Path) -> None:
    tasks = {
        "a": Task(data="new:addz", reward={"exakt": 1.0}),
        "b": Task(data="new:addz", reward={"mine.py:f": 1.0}),
        "c": Task(data="new:addz", reward={}),
        "d": Task(data="new:addz", reward={"exact": float("nan")}),
        "e": Task(data="new:addz", reward={"exact": 0.0, "length": 0.0}),
        "f": Task(data="new:addz", reward={"exact": 1.0, "length": 0.0}),
        "g": Task(data="new:addz", reward={"exact": 0.0}, use="eval"),
    }
    with pytest.raises(ConfigError) as caught:
        Rewarder.check(RewarderConfig(), {Task: tasks}, tmp_path)  # type: ignore[dict-item]
    text = str(caught.value)
    assert "[tasks.a].reward: no reward 'exakt'. Did you mean \"exact\"?" in text
    assert "[tasks.b].reward: the reward 'mine.py:f' names the file" in text
    assert "[tasks.c].reward: at least one is needed" in text
    assert "[tasks.d].reward: the weight of 'exact' is nan" in text
    assert "[tasks.e].reward: every weight is 0" in text
    assert "[tasks.f]" not in text  # a part that is only shown
    assert "[tasks.g]" not in text


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_answers_are_judged_as_they_should_be(name: str) -> None:
    known = KNOWN[name]
    reward = resolve(name, Path())
    assert reward("", known.right, known.answer, "stop") == 1.0
    assert reward("", known.wrong, known.answer, "stop") == 0.0


async def test_a_reward_that_misjudges_known_answers_ends_the_run(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "exact", Known("12", "13", "12"))  # the two, taken for each other
    tasks = {"sum": Task(data="new:addz", reward={"exact": 1.0})}
    text = "'exact' does not judge .* '13' .* was given 0.0, '12' is worth 0.0 and was given 1.0"
    with pytest.raises(ConfigError, match=text):
        await bench.start(Rewarder, RewarderConfig(), {Task: tasks}, {"scored": bench.outlet()})


async def test_a_reward_that_cannot_judge_known_answers_ends_the_run(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "numeric", Known("twelve", "12", "13"))
    tasks = {"sum": Task(data="new:addz", reward={"numeric": 1.0})}
    with pytest.raises(ConfigError, match=r"was given no score .*'twelve' has no number"):
        await bench.start(Rewarder, RewarderConfig(), {Task: tasks}, {"scored": bench.outlet()})
